// The workshop: bundles src/ into dist/. With --check it bundles into a temporary folder and compares with dist/, byte for byte.
import { cp, mkdir, mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");

async function bundle(into) {
  await mkdir(into, { recursive: true });
  await build({
    absWorkingDir: here, // what esbuild writes must not depend on where it was called
    entryPoints: { app: "src/main.tsx", reference: "src/reference.tsx" },
    outdir: into,
    bundle: true,
    minify: true,
    format: "esm",
    target: ["es2022"],
    jsx: "automatic",
    jsxImportSource: "preact",
    legalComments: "none",
    charset: "utf8",
    logLevel: "warning",
  });
  for (const name of ["index.html", "reference.html"]) await cp(join(here, "src", name), join(into, name));
}

if (process.argv.includes("--check")) {
  const fresh = await mkdtemp(join(tmpdir(), "tidegate-page-"));
  await bundle(fresh);
  const names = [...new Set([...(await readdir(fresh)), ...(await readdir(dist).catch(() => []))])].sort();
  const read = (folder, name) => readFile(join(folder, name)).catch(() => null);
  const differ = [];
  for (const name of names) {
    const [a, b] = await Promise.all([read(fresh, name), read(dist, name)]);
    if (!a || !b || !a.equals(b)) differ.push(name);
  }
  await rm(fresh, { recursive: true });
  if (differ.length > 0) {
    console.error(`dist/ is not what src/ makes: ${differ.join(", ")}. Run: npm run build`);
    process.exit(1);
  }
  console.log(`dist/ is what src/ makes: ${names.join(", ")}`);
} else {
  await bundle(dist);
  for (const name of (await readdir(dist)).sort()) console.log(`${name} ${(await readFile(join(dist, name))).length} bytes`);
}
