/** The porter's lodge: asks for the token where the api wants one. It is kept for this tab alone. */

import { useState } from "preact/hooks";

import { token } from "./api";

export function Token({ enter }: { enter: (given: string) => void }) {
  const [given, setGiven] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    enter(given.trim());
    setGiven("");
  };
  return (
    <form class="card token" onSubmit={submit}>
      <label for="token">{token.get() ? "The token is not right. Give it again:" : "This api asks for its token (api.token):"}</label>
      <div class="row">
        <input
          id="token"
          type="password"
          autocomplete="off"
          value={given}
          onInput={(event) => setGiven(event.currentTarget.value)}
        />
        <button type="submit" disabled={!given.trim()}>
          Enter
        </button>
      </div>
      <p class="dim">It is kept in this tab until it is closed, and sent to this api alone.</p>
    </form>
  );
}
