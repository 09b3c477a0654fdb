/** The handle of the light switch: a button that turns it on. */

import { useState } from "preact/hooks";

import { type Theme, setTheme, theme } from "./theme";

const NEXT: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };
const SIGN: Record<Theme, string> = { auto: "◐", light: "☀", dark: "☾" };

export function ThemeSwitch() {
  const [now, setNow] = useState(theme());
  const turn = () => {
    setTheme(NEXT[now]);
    setNow(NEXT[now]);
  };
  return (
    <button type="button" class="quiet" onClick={turn} title={`Theme: ${now}`} aria-label={`Theme: ${now}`}>
      <span aria-hidden="true">{SIGN[now]}</span> <span class="wide">{now}</span>
    </button>
  );
}
