// The page in a real Chromium: open, see it alive, see rows change, ask, see an error in its place, download, stop the engine.
//
//   node test/page.test.mjs URL          prints one JSON line; its exit code is 0 if every step went well
//
// ENGINE_PID      the engine's process: it is stopped, the page must say so, and it is let on again
// ENGINE_SIGNAL   what stops it; after another signal than SIGSTOP it is not let on
// API_TOKEN       the token of an api that has one
// BROKEN_QUERY, BROKEN_WORD   a query with an error in it, and the word that is wrong
// ALIVE_MS, ROWS_MS, STOPPED_MS   how long each may take
import { readFile } from "node:fs/promises";
import { browser, complaints, must, step, steps } from "./browser.mjs";

const url = process.argv[2] ?? process.env.PAGE_URL ?? "http://127.0.0.1:8000/";
const { env } = process;
const patience = (name, otherwise) => Number(env[name] ?? otherwise);
const chromium = await browser();
const page = await (await chromium.newContext({ acceptDownloads: true })).newPage();
const heard = await complaints(page);
/** The page asks for things that an api may not have, or not give yet; a browser tells these of itself. */
const expected = [];

const text = (selector) => page.locator(selector).first().innerText();
const state = () => text('[data-tile="state"] strong');
const until = (mood, timeout) => page.locator(`[data-tile="state"][data-mood="${mood}"]`).waitFor({ timeout });

/** Writes a query into the editor. */
async function write(sql) {
  await page.locator(".cm-content").click();
  await page.keyboard.press("ControlOrMeta+A");
  await page.keyboard.insertText(sql);
}

let failure = null;
try {
  await step("open", async () => {
    const response = await page.goto(url);
    must(response.ok(), `GET ${url}: ${response.status()}`);
    const policy = response.headers()["content-security-policy"] ?? "";
    must(/default-src 'self'/.test(policy) && !/unsafe/.test(policy), `the policy is ${policy || "missing"}`);
  });
  if (env.API_TOKEN) {
    await step("token", async () => {
      expected.push(/status of 401/);
      await page.locator("#token").fill("wrong");
      await page.keyboard.press("Enter");
      await page.getByText("The token is not right").waitFor();
      await page.locator("#token").fill(env.API_TOKEN);
      await page.keyboard.press("Enter");
    });
  }
  await step("alive", async () => {
    await until("good", patience("ALIVE_MS", 15_000));
    return state();
  });
  await step("sources", async () => {
    const source = page.locator("[data-source]").first();
    await source.getByText("held by partition").waitFor();
    return (await source.innerText()).replace(/\s+/g, " ").slice(0, 200);
  });
  await step("rows change", async () => {
    const rows = page.locator("[data-rows] tbody");
    await rows.locator("tr").first().waitFor();
    const before = await rows.innerText();
    const deadline = Date.now() + patience("ROWS_MS", 20_000);
    while ((await rows.innerText()) === before) {
      must(Date.now() < deadline, "no row has changed");
      await page.waitForTimeout(200);
    }
    await page.locator("[data-rows] td.changed").first().waitFor({ timeout: patience("ROWS_MS", 20_000) });
    return `${await rows.locator("tr").count()} rows`;
  });
  await step("chart", async () => {
    await page.locator(".chart canvas").first().waitFor();
  });
  await step("query", async () => {
    await write('SELECT source, "partition", committed_offset FROM tidegate.progress ORDER BY "partition"');
    await page.keyboard.press("ControlOrMeta+Enter");
    await page.locator("[data-grid] tbody tr").first().waitFor();
    return (await text("[data-grid] tbody tr")).replace(/\s+/g, " ");
  });
  await step("download", async () => {
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.getByLabel("Download").selectOption("csv"),
    ]);
    const [head] = (await readFile(await download.path(), "utf8")).split(/\r?\n/);
    must(head === "source,partition,committed_offset", `the file begins with ${head}`);
    return download.suggestedFilename();
  });
  await step("explain", async () => {
    await page.getByRole("button", { name: "Explain" }).click();
    await page.locator('[data-plan="physical_plan"]').waitFor();
  });
  await step("error under the right word", async () => {
    expected.push(/status of 400.*\/api\/v1\/sql$/);
    const word = env.BROKEN_WORD ?? "comitted_offset";
    await write(env.BROKEN_QUERY ?? `SELECT source,\n       lag, ${word}\nFROM tidegate.progress`);
    await page.keyboard.press("ControlOrMeta+Enter");
    await page.locator(".fault").waitFor();
    must((await text(".fault")) === word, `${await text(".fault")} is marked, not ${word}`);
    const [marked, note] = [await page.locator(".fault").boundingBox(), await page.locator(".fault-note").boundingBox()];
    must(note.y >= marked.y + marked.height - 4 && note.y < marked.y + 3 * marked.height, "the note is not under the line");
    return text(".fault-note");
  });
  await step("completion", async () => {
    await write("SELECT * FROM tidegate.");
    await page.locator(".cm-tooltip-autocomplete").getByText("dead_letters").waitFor();
    await page.keyboard.press("Escape");
  });
  if (env.ENGINE_PID) {
    const signal = env.ENGINE_SIGNAL ?? "SIGSTOP";
    const pid = Number(env.ENGINE_PID);
    await step("engine stopped", async () => {
      // An api that ends with its engine is told of as well.
      if (signal !== "SIGSTOP") expected.push(/status of 50[234]|ERR_(CONNECTION|EMPTY|INCOMPLETE)/);
      process.kill(pid, signal);
      try {
        await until("bad", patience("STOPPED_MS", 15_000));
        return await text(".alarm");
      } finally {
        if (signal === "SIGSTOP") process.kill(pid, "SIGCONT");
      }
    });
    if (signal === "SIGSTOP") await step("alive again", () => until("good", patience("ALIVE_MS", 15_000)));
  }
  await step("no complaint", async () => {
    // An api without streams says so by 404, and the page asks for rows instead.
    expected.push(/status of 404.*\/stream$/);
    const others = heard.filter((line) => !expected.some((known) => known.test(line)));
    must(others.length === 0, others.join("\n"));
  });
} catch (error) {
  failure = error.message.split("\n    at ")[0];
}
await chromium.close();
console.log(JSON.stringify({ ok: failure === null, failure, steps, heard }));
process.exit(failure === null ? 0 : 1);
