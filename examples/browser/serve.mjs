/**
 * Serves the page, and nothing else of this machine: `npm start`, or `node serve.mjs --port 8001`.
 *
 * Its headers isolate the page from other origins, without which browsers give WebAssembly no threads, and let it load
 * from this server alone.
 */

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const HERE = fileURLToPath(new URL("./", import.meta.url));
const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".json": "application/json",
  ".mjs": "text/javascript; charset=utf-8",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};
const HEADERS = {
  "Cache-Control": "no-cache",
  "Content-Security-Policy":
    "default-src 'self' blob:; script-src 'self' blob: 'wasm-unsafe-eval'; object-src 'none'; base-uri 'none'",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "X-Content-Type-Options": "nosniff",
};

/** Return the options of the command line; ends the program with a sentence if they are wrong. */
function parsed() {
  try {
    const { values } = parseArgs({
      options: {
        port: { type: "string", default: "8000" },
        generated: { type: "string", default: join(HERE, "generated") }, // what prepare.py wrote
      },
    });
    const port = Number(values.port);
    if (Number.isInteger(port) && port >= 0 && port < 65536) return { ...values, port };
    throw new Error(`--port should be a number from 0 to 65535, not ${values.port}`);
  } catch (error) {
    console.error(error.message);
    process.exit(2);
  }
}

const options = parsed();
// The longest prefix that matches a path says which folder it is in.
const FOLDERS = {
  "/browser/generated/": options.generated,
  "/browser/": HERE,
  "/javascript/": fileURLToPath(new URL("../javascript/", import.meta.url)),
};

/** Return the file that a URL's path names; null for what is not served. */
function fileOf(path) {
  const prefix = Object.keys(FOLDERS).find((start) => path.startsWith(start));
  if (!prefix || path.includes("\0")) return null;
  const inside = normalize(path.slice(prefix.length) || "index.html");
  return inside === ".." || inside.startsWith(`..${sep}`) ? null : join(FOLDERS[prefix], inside);
}

function pathOf(url) {
  try {
    return decodeURIComponent(new URL(url, "http://localhost").pathname);
  } catch {
    return ""; // no URL at all: not served
  }
}

async function answer(request, response) {
  const path = pathOf(request.url);
  if (path === "/" || path === "/browser") return response.writeHead(302, { ...HEADERS, Location: "/browser/" }).end();
  const file = ["GET", "HEAD"].includes(request.method) ? fileOf(path) : null;
  const found = file && (await stat(file).catch(() => null));
  if (!found?.isFile()) return response.writeHead(404, HEADERS).end("not found");
  const type = TYPES[extname(file)] ?? "application/octet-stream";
  response.writeHead(200, { ...HEADERS, "Content-Type": type, "Content-Length": found.size });
  if (request.method === "HEAD") return response.end();
  // Closes both, whichever ends first: a visitor who leaves in the middle is no error of the server.
  await pipeline(createReadStream(file), response).catch((error) => response.destroy(error));
}

const server = createServer(answer);
server.on("error", (error) => {
  console.error(error.code === "EADDRINUSE" ? `port ${options.port} is taken; choose another with --port` : error.message);
  process.exitCode = 3;
});
server.listen(options.port, "localhost", () => console.log(`http://localhost:${server.address().port}/browser/`));
