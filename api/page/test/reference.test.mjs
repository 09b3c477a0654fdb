// The reference in a real Chromium: open it, find an operation, try several, and hold what it shows against the document.
//
//   node test/reference.test.mjs URL     prints one JSON line; its exit code is 0 if every step went well
//
// URL is that of the api, without a path. It must have a view that has rows.
//
// API_TOKEN       the token of an api that has one
// EVENTS_MS       how long an event of a stream may take
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { browser, complaints, must, step, steps } from "./browser.mjs";

const url = new URL("/api", process.argv[2] ?? process.env.PAGE_URL ?? "http://127.0.0.1:8000/");
const { env } = process;
const chromium = await browser();
const page = await (await chromium.newContext({ acceptDownloads: true })).newPage();
const heard = await complaints(page);
/** A browser tells of itself that an answer was a refusal. */
const expected = [];

const at = (id) => page.locator(`[id="${id}"]`);

/** Opens an operation, unless it is. */
async function open(id) {
  const operation = at(id);
  if (!(await operation.evaluate((place) => place.open))) await operation.locator("> summary").click();
  return operation;
}

/** Fills the form of an operation, sends it, and gives what was answered. */
async function attempt(id, filled = {}, status = 200) {
  const operation = await open(id);
  for (const [label, value] of Object.entries(filled)) {
    const input = operation.getByLabel(label, { exact: true });
    if ((await input.evaluate((place) => place.tagName)) === "SELECT") await input.selectOption(value);
    else await input.fill(value);
  }
  const before = operation.locator("[data-answered]");
  await before.evaluateAll((places) => places.forEach((place) => place.setAttribute("data-stale", "")));
  await operation.getByRole("button", { name: "Send" }).click();
  const answered = operation.locator("[data-answered]:not([data-stale])");
  await answered.waitFor();
  const told = Number(await answered.getAttribute("data-answered"));
  const body = (await answered.locator("[data-body]").count()) > 0 ? await answered.locator("[data-body]").innerText() : "";
  must(told === status, `${id} answers ${told}: ${body.slice(0, 300)}`);
  const headers = await answered.locator("[data-headers]").innerText();
  return { body, headers, answered, command: await operation.locator("[data-curl]").innerText() };
}

const SQL = "SELECT 'it''s' AS word, 9007199254740993 AS big, 'ü & +%' AS odd";

let failure = null;
try {
  await step("open", async () => {
    const response = await page.goto(url.href);
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
  await step("all of the document", async () => {
    const headers = env.API_TOKEN ? { authorization: `Bearer ${env.API_TOKEN}` } : {};
    const document = await (await fetch(new URL("/api/openapi.json", url), { headers })).json();
    await page.locator(".operation").first().waitFor();
    const shown = new Set(await page.locator(".operation").evaluateAll((places) => places.map((place) => place.id)));
    let operations = 0;
    for (const [path, methods] of Object.entries(document.paths)) {
      for (const [method, { parameters = [], responses }] of Object.entries(methods)) {
        if (!/^(get|post|put|patch|delete)$/.test(method)) continue;
        operations += 1;
        const id = `${method}-${path}`;
        must(shown.has(id), `${id} is not shown`);
        const [names, statuses] = await at(id).evaluate((place) => [
          [...place.querySelectorAll("[data-parameter]")].map((row) => row.dataset.parameter),
          [...place.querySelectorAll("[data-status]")].map((one) => one.textContent),
        ]);
        for (const { name } of parameters) must(names.includes(name), `${id} does not tell of ${name}`);
        for (const status of Object.keys(responses)) must(statuses.includes(status), `${id} does not tell of ${status}`);
      }
    }
    must(shown.size === operations, `${shown.size} are shown of ${operations}`);
    const unlabelled = await page.locator("input, select, textarea").evaluateAll((all) => all.filter((one) => one.labels.length === 0).length);
    must(unlabelled === 0, `${unlabelled} inputs have no label`);
    return `${operations} operations`;
  });
  await step("find", async () => {
    await page.getByLabel("Filter").fill("cancel DELETE");
    await at("get-/health").waitFor({ state: "hidden" });
    must(await at("delete-/api/v1/sql/{id}").isVisible(), "the one that was looked for is hidden");
    await page.getByLabel("Filter").fill("");
    await at("get-/health").waitFor();
  });
  await step("by the address", async () => {
    await page.goto(`${url.href}#get-/api/v1/queries/{name}/rows`);
    await page.reload();
    const rows = at("get-/api/v1/queries/{name}/rows");
    await rows.getByRole("button", { name: "Send" }).waitFor();
    await page.evaluate(() => (location.hash = "#get-/health"));
    await at("get-/health").getByRole("button", { name: "Send" }).waitFor();
  });
  await step("by the keyboard", async () => {
    await at("get-/readyz").locator("> summary").focus();
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => location.hash === "#get-/readyz");
    await page.keyboard.press("Tab");
    while ((await page.evaluate(() => document.activeElement.textContent)) !== "Send") await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await at("get-/readyz").locator("[data-answered]").waitFor();
  });
  await step("a view's rows", async () => {
    const { body, headers } = await attempt("get-/api/v1/queries/{name}/rows", { limit: "3" });
    const rows = JSON.parse(body);
    must(rows.rows.length > 0 && rows.rows.length <= 3, `there are ${rows.rows.length} rows`);
    must(headers.includes("application/json"), headers);
    return headers.replaceAll("\n", ", ");
  });
  await step("a refusal", async () => {
    expected.push(/status of 400.*\/rows\?limit=0$/);
    const { body } = await attempt("get-/api/v1/queries/{name}/rows", { limit: "0" }, 400);
    must(JSON.parse(body).code === "TG-API-PARAMETER", body);
  });
  await step("a query in the address", async () => {
    const { body, headers } = await attempt("get-/api/v1/sql", { sql: SQL, Accept: "text/csv" });
    must(/^word,big,odd\r?\nit's,9007199254740993,ü & \+%\s*$/.test(body), body);
    must(headers.includes("x-tidegate-query-id"), headers);
  });
  await step("a file", async () => {
    const { answered, headers } = await attempt("get-/api/v1/sql", { Accept: "application/vnd.apache.parquet" });
    const [download] = await Promise.all([page.waitForEvent("download"), answered.locator("a[download]").click()]);
    const file = await readFile(await download.path());
    must(file.subarray(0, 4).toString() === "PAR1", `the file begins with ${file.subarray(0, 4)}; ${headers}`);
    return `${download.suggestedFilename()}, ${file.length} bytes`;
  });
  await step("a query in a body", async () => {
    const text = await attempt("post-/api/v1/sql", { "Content-Type": "text/plain", Body: SQL });
    must(text.body.includes("it's") && text.body.includes("9007199254740993"), text.body);
    const { body } = await attempt("post-/api/v1/sql", { "Content-Type": "application/json", Body: JSON.stringify({ sql: "SELECT 1 + $1 AS n", params: [6] }) });
    must(JSON.parse(body).rows[0][0] === 7, body);
  });
  await step("curl says the same", async () => {
    const { command, body } = await attempt("post-/api/v1/sql", { "Content-Type": "text/plain", Body: SQL, Accept: "text/csv" });
    const { stdout } = await promisify(execFile)("sh", ["-c", command], { env: { ...env, TIDEGATE__API__TOKEN: env.API_TOKEN ?? "" } });
    must(stdout.trim() === body.trim(), `${command}\n${stdout}`);
    must(!env.API_TOKEN || !command.includes(env.API_TOKEN), "the command tells the token");
  });
  await step("nothing to cancel", async () => {
    expected.push(/status of 404.*\/api\/v1\/sql\/[0-9a-f-]+$/);
    await attempt("delete-/api/v1/sql/{id}", { id: "00000000-0000-4000-8000-000000000000" }, 404);
  });
  await step("a stream", async () => {
    const id = "get-/api/v1/queries/{name}/stream";
    const operation = await open(id);
    await operation.getByRole("button", { name: "Send" }).click();
    await operation.locator("[data-body]").getByText("event: rows").waitFor({ timeout: Number(env.EVENTS_MS ?? 20_000) });
    await operation.getByRole("button", { name: "Stop" }).click();
    await operation.getByText("and it is over").waitFor();
    must((await operation.getByRole("button", { name: "Stop" }).count()) === 0, "there is still something to stop");
  });
  await step("within a narrow screen", async () => {
    await page.locator(".operation").evaluateAll((places) => places.forEach((place) => (place.open = true)));
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      for (const width of [390, 800, 1280]) {
        await page.setViewportSize({ width, height: 844 });
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        must(over <= 0, `at ${width} pixels it is ${over} too wide`);
      }
    }
  });
  await step("no complaint", async () => {
    const others = heard.filter((line) => !expected.some((known) => known.test(line)));
    must(others.length === 0, others.join("\n"));
  });
} catch (error) {
  failure = error.message.split("\n    at ")[0];
}
await chromium.close();
console.log(JSON.stringify({ ok: failure === null, failure, steps, heard }));
process.exit(failure === null ? 0 : 1);
