// What a program displays as HTML or SVG, made harmless and put into a document of its own.
//
// Three walls: DOMPurify takes scripts, handlers, forms and frames out; the frame is sandboxed, so that it runs no script and
// has no origin; its own policy lets it load nothing but pictures that it brings along.

import DOMPurify from "dompurify";
import { NONCE } from "./editor";
import { aside } from "./markup";

const FRAME_POLICY = `default-src 'none'; img-src data:; style-src 'nonce-${NONCE}'`;

const LOADS = ["href", "xlink:href", "src", "srcset", "poster", "background", "action", "formaction", "data", "ping"];

/** A style sheet that asks for nothing: the policy would refuse it, and tell of it as a violation. */
function quiet(css: string): string {
  return css.replace(/@import[^;]*;?/gi, "").replace(/url\(\s*(['"]?)(?!data:)[^)]*\)/gi, "none");
}

/** Attributes of style are moved into a sheet: only sheets with the page's word are taken. */
function sheet(root: DocumentFragment, css: string): string {
  const rules = [quiet(css)];
  root.querySelectorAll("[data-guest-style]").forEach((element, at) => {
    rules.push(`[data-styled="${at}"]{${quiet(element.getAttribute("data-guest-style") ?? "").replace(/[{}]/g, "")}}`);
    element.setAttribute("data-styled", String(at));
    element.removeAttribute("data-guest-style");
  });
  return rules.join("\n").replaceAll("</", "<\\/");
}

const purify = DOMPurify();
purify.addHook("afterSanitizeAttributes", (element) => {
  for (const name of LOADS) {
    const value = element.getAttribute(name);
    if (value === null) continue;
    const carried = value.startsWith("data:image/") || (value.startsWith("#") && element.tagName.toLowerCase() !== "a");
    if (!carried) element.removeAttribute(name);
  }
});

export interface Made {
  document: string;
  /** What it may need, in pixels: a frame without scripts and origin cannot be measured. */
  height: number;
  /** Whether something was taken out. */
  cut: boolean;
}

function estimated(root: DocumentFragment): number {
  const drawn = [...root.querySelectorAll("svg, img[src]")].map((element) => {
    const box = element.getAttribute("viewBox")?.split(/[\s,]+/)[3];
    const said = element.getAttribute("height") ?? box ?? "200";
    return Number.parseFloat(said) * (said.endsWith("pt") ? 4 / 3 : 1) || 200;
  });
  const lines = root.querySelectorAll("tr, p, li, h1, h2, h3, h4, pre, br").length;
  const tall = 44 + lines * 25 + drawn.reduce((sum, one) => sum + one, 0);
  return Math.round(Math.min(Math.max(tall, 64), 560));
}

export function harmless(markup: string, kind: "html" | "svg"): Made {
  const apart = aside(markup);
  const root = purify.sanitize(apart.markup, {
    USE_PROFILES: kind === "svg" ? { svg: true, svgFilters: true } : { html: true, svg: true, svgFilters: true },
    FORBID_TAGS: ["form", "input", "button", "textarea", "select", "option", "audio", "video", "source", "track", "dialog"],
    FORBID_ATTR: ["style"],
    // A drawing's parts refer to each other; the hook above leaves no reference to anything else.
    ADD_TAGS: ["use"],
    FORCE_BODY: true,
    RETURN_DOM_FRAGMENT: true,
  });
  const handlers = [...root.querySelectorAll("*")].some((element) => element.getAttributeNames().some((name) => name.startsWith("data-guest-on")));
  const cut = handlers || purify.removed.length > 0;
  const css = sheet(root, apart.css);
  const height = estimated(root);
  const body = document.createElement("div");
  body.append(root);
  const base = "body{margin:8px;font:13px/1.45 system-ui,sans-serif;color:#1b1f24;background:#fff}table{border-collapse:collapse}td,th{padding:2px 8px}svg,img{max-width:100%}";
  return {
    cut,
    height,
    document:
      `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="${FRAME_POLICY}">` +
      `<title>Displayed by the program</title><style nonce="${NONCE}">${base}\n${css}</style></head><body>${body.innerHTML}</body></html>`,
  };
}
