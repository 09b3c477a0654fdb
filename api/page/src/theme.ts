/** The light switch: as the system has it, or light, or dark. */

const KEY = "tidegate.theme";
export type Theme = "auto" | "light" | "dark";

export function theme(): Theme {
  const kept = localStorage.getItem(KEY);
  return kept === "light" || kept === "dark" ? kept : "auto";
}

const dark = matchMedia("(prefers-color-scheme: dark)");

export function setTheme(to: Theme) {
  if (to === "auto") localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, to);
  showTheme();
}

/** Puts it onto the page: every colour of the style sheet is a pair, and its scheme chooses. */
export function showTheme() {
  const chosen = theme();
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  dispatchEvent(new Event("themed"));
}

dark.addEventListener("change", showTheme);

let probe: HTMLElement | undefined;

/** A colour of the style sheet as it is now, for what is drawn by hand. */
export function colour(name: string): string {
  if (!probe) {
    probe = document.createElement("i");
    probe.hidden = true;
    document.body.append(probe);
  }
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}
