// The rehearsal room: serves dist/ with the headers that the binary sends, and hands every other path to an api.
//
//   node dev.mjs [port] [api]      node dev.mjs 8200 http://127.0.0.1:8000
import { readFile } from "node:fs/promises";
import http from "node:http";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const [port = "8200", api = "http://127.0.0.1:8000"] = process.argv.slice(2);
const dist = join(dirname(fileURLToPath(import.meta.url)), "dist");
const target = new URL(api);
const files = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/app.js": ["app.js", "text/javascript; charset=utf-8"],
  "/app.css": ["app.css", "text/css; charset=utf-8"],
  "/api": ["reference.html", "text/html; charset=utf-8"],
  "/api/reference.js": ["reference.js", "text/javascript; charset=utf-8"],
};
const headers = {
  "content-security-policy":
    "default-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; " +
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  "cache-control": "no-cache",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
};

const server = http.createServer(async (request, response) => {
  const file = files[new URL(request.url, "http://page").pathname];
  if (file) {
    const [name, type] = file;
    response.writeHead(200, { ...headers, "content-type": type });
    response.end(await readFile(join(dist, name)));
    return;
  }
  // The api must see itself addressed, and no page of another origin.
  const { origin: _origin, "sec-fetch-site": _site, ...kept } = request.headers;
  const asked = http.request(
    { host: target.hostname, port: target.port, path: request.url, method: request.method, headers: { ...kept, host: target.host } },
    (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    },
  );
  asked.on("error", () => {
    if (!response.headersSent) response.writeHead(502, { "content-type": "text/plain" });
    response.end("the api does not answer");
  });
  response.on("close", () => asked.destroy());
  request.pipe(asked);
});
server.listen(Number(port), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port} in front of ${api}`));
