import { defineConfig } from "vite";

// A server to work against while the page is being made: `npm run preview` serves the built page and hands /v1 on.
const api = process.env.CASEMATE_API ?? "http://127.0.0.1:3000";

const proxy = {
  "/v1": {
    target: api,
    changeOrigin: true,
    // The server takes requests of its own page alone; here the page comes from another port.
    configure: (server: { on(event: "proxyReq", then: (request: { removeHeader(name: string): void }) => void): void }) => {
      server.on("proxyReq", (request) => {
        request.removeHeader("origin");
        request.removeHeader("sec-fetch-site");
      });
    },
  },
};

export default defineConfig({
  esbuild: { jsx: "automatic", jsxImportSource: "preact", legalComments: "none" },
  build: {
    target: "es2022",
    // One sheet and one script, each by its hash; nothing is put into the page as data, which the policy would refuse.
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    chunkSizeWarningLimit: 700,
    modulePreload: { polyfill: false },
  },
  html: { cspNonce: "__NONCE__" },
  server: { proxy },
  preview: {
    proxy,
    headers: {
      "Content-Security-Policy":
        "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-__NONCE__'; img-src 'self' data: blob:; " +
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    },
  },
});
