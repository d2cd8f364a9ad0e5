// Guest markup before a browser parses it. Pure.
//
// A page's policy refuses styles and handlers that stand in markup as soon as they are parsed, whatever becomes of them later, and tells
// of each as a violation, and of another base. So they are taken aside in the text: this is for quiet, the walls are in `guest`.

const END_OF_STYLE = "</style";

/** Markup without style sheets, with styles and handlers under other names; and the sheets. */
export function aside(markup: string): { markup: string; css: string } {
  const { rest, sheets } = withoutSheets(markup);
  return { markup: renamed(rest), css: sheets.join("\n") };
}

function withoutSheets(markup: string): { rest: string; sheets: string[] } {
  const lower = markup.toLowerCase();
  const sheets: string[] = [];
  let rest = "";
  let at = 0;
  for (;;) {
    const open = lower.indexOf("<style", at);
    const begin = open < 0 ? -1 : lower.indexOf(">", open);
    if (begin < 0) return { rest: rest + markup.slice(at), sheets };
    const close = lower.indexOf(END_OF_STYLE, begin);
    const end = close < 0 ? markup.length : close;
    sheets.push(markup.slice(begin + 1, end));
    rest += markup.slice(at, open);
    const after = close < 0 ? -1 : lower.indexOf(">", close);
    at = after < 0 ? markup.length : after + 1;
  }
}

const BASE = /^<base[\s/>]/i;
const TELLING = /([\s/"'])(on[a-z]+|style)(?=\s*=)/gi;

function renamed(markup: string): string {
  let out = "";
  let at = 0;
  for (;;) {
    const open = markup.indexOf("<", at);
    if (open < 0) return out + markup.slice(at);
    const end = endOfTag(markup, open);
    const whole = markup.slice(open, end);
    const tag = BASE.test(whole) ? "" : whole.replace(TELLING, (_, before: string, name: string) => `${before}data-guest-${name.toLowerCase()}`);
    out += markup.slice(at, open) + tag;
    at = end;
  }
}

/** The place after a tag; what is quoted in it may hold a `>`. */
function endOfTag(markup: string, open: number): number {
  let quote = "";
  let last = "";
  for (let at = open + 1; at < markup.length; at += 1) {
    const here = markup[at] ?? "";
    if (quote) {
      if (here === quote) quote = "";
    } else if ((here === '"' || here === "'") && last === "=") {
      quote = here;
    } else if (here === ">") {
      return at + 1;
    }
    if (here.trim()) last = here;
  }
  return markup.length;
}
