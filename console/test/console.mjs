// Drives the console in a browser, as a person would. Arguments: the server's address, the repository, a folder for pictures, and, to try
// a part of it, words of a step's name. With CASEMATE_KEY set the server is one that has keys, and this is one of them.
//
// Each step says what it has seen; the first that has not ends it with its reason. A picture of every view is left in the folder.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [address, repository, pictures, only = ""] = process.argv.slice(2);
const KEY = process.env.CASEMATE_KEY ?? "";
const base = `http://${address}`;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const LAYERS = ["Validation", "Analysis", "Isolation", "Limits", "Network", "Observation"];
const SALES = join(repository, "examples/sales");

/** Everything that went wrong in the browser, or went elsewhere than to the server. */
const wrong = [];
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: process.getuid() === 0 ? ["--no-sandbox"] : [] });

async function open({ scheme = "light", width = 1280, path = "/" } = {}) {
  const context = await browser.newContext({ viewport: { width, height: 800 }, colorScheme: scheme, acceptDownloads: true });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  page.on("console", (message) => message.type() === "error" && wrong.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => wrong.push(`error: ${error.stack}`));
  page.on("dialog", (dialog) => (wrong.push(`dialog: ${dialog.message()}`), dialog.dismiss()));
  page.on("request", (request) => {
    if (!request.url().startsWith(`${base}/`) && !/^(data|blob|about):/.test(request.url())) wrong.push(`request to ${request.url()}`);
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    addEventListener("securitypolicyviolation", (event) => globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  await page.goto(base + path);
  await page.waitForSelector("h1");
  return page;
}

async function write(page, code) {
  await page.getByRole("textbox", { name: "Python program" }).click();
  await page.keyboard.press("Control+A");
  await page.keyboard.insertText(code);
}

/** Runs what stands in the editor, by keyboard alone, and waits for its end. */
async function run(page, code) {
  await write(page, code);
  await page.keyboard.press("Control+Enter");
  await page.waitForFunction(() => document.querySelector("[aria-label='The six layers'] .works, [aria-label='The six layers'] .waits") === null);
}

const layers = (page) => page.$$eval("[aria-label='The six layers'] li", (all) => all.map((layer) => layer.dataset.standing));
const picture = (page, name) => page.screenshot({ path: join(pictures, `${name}.png`), fullPage: true, caret: "initial" });

async function accessible(page, where) {
  const results = await page.evaluate(`${AXE}; axe.run(document, { resultTypes: ["violations"], iframes: false })`);
  const grave = results.violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const told = grave.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("\n  ")}`);
  assert.deepEqual(told, [], `${where} is hard to use for some`);
}

async function quiet(page, where) {
  assert.deepEqual(await page.evaluate(() => globalThis.violations), [], `${where}: the policy was violated`);
  assert.deepEqual(wrong, [], `${where}: the browser complained`);
}

const steps = {
  async "the page comes with a strict policy and needs nothing from elsewhere"() {
    const answer = await fetch(`${base}/`);
    const policy = answer.headers.get("content-security-policy");
    for (const part of ["default-src 'none'", "script-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]) {
      assert.ok(policy.includes(part), policy);
    }
    assert.ok(!policy.includes("unsafe"), policy);
    assert.equal(answer.headers.get("referrer-policy"), "no-referrer");
    assert.equal(answer.headers.get("x-content-type-options"), "nosniff");
    const [script] = (await answer.text()).match(/\/assets\/[^"]+\.js/);
    const part = await fetch(base + script);
    assert.match(part.headers.get("cache-control"), /immutable/);
    assert.match(part.headers.get("content-type"), /^text\/javascript/);
    const strange = await fetch(`${base}/`, { headers: { Origin: "http://evil.example" } });
    assert.equal(strange.status, 403);
  },

  async "a CSV is dropped, and the first program is one that reads it"() {
    const page = await open();
    const text = readFileSync(join(SALES, "sales.csv"), "utf8");
    const carried = await page.evaluateHandle((content) => {
      const data = new DataTransfer();
      data.items.add(new File([content], "sales.csv", { type: "text/csv" }));
      return data;
    }, text);
    for (const event of ["dragenter", "dragover", "drop"]) await page.dispatchEvent(".bench", event, { dataTransfer: carried });
    await page.getByRole("region", { name: "Files for the program" }).getByText("/data/sales.csv").waitFor();
    await page.getByText('read_csv("/data/sales.csv")').waitFor();
    await quiet(page, "dropping");

    await run(page, readFileSync(join(SALES, "analyze.py"), "utf8"));
    assert.deepEqual(await layers(page), LAYERS.map(() => "holds"));
    await page.getByRole("log").getByText("15,846 orders").waitFor();
    await picture(page, "sales");

    const column = () => page.$$eval("figure.table tbody tr", (rows) => rows.map((row) => row.children[3].textContent));
    const given = (await column()).map(Number);
    await page.getByRole("button", { name: /^growth/ }).click();
    assert.deepEqual((await column()).map(Number), [...given].sort((a, b) => a - b));
    assert.equal(await page.getByRole("columnheader", { name: /^growth/ }).getAttribute("aria-sort"), "ascending");
    await page.getByRole("button", { name: /^growth/ }).click();
    assert.deepEqual((await column()).map(Number), [...given].sort((a, b) => b - a));

    const drawn = await page.$eval("figure.chart img", (image) => [image.naturalWidth, image.alt, image.src.slice(0, 22)]);
    assert.ok(drawn[0] > 500 && drawn[1].startsWith("Sales") && drawn[2] === "data:image/png;base64,", String(drawn));
    await page.getByRole("button", { name: "Plot", exact: true }).click();
    await page.locator("figure.chart canvas").nth(1).waitFor();
    assert.equal(await page.locator("figure.chart canvas").count(), 2);
    await page.locator(".u-over").first().hover();
    const legend = page.locator(".u-legend").first();
    await legend.getByText(/^20\d\d-\d\d-\d\d$/).waitFor();
    await picture(page, "plot");
    await page.getByRole("button", { name: "Data", exact: true }).click();
    await page.getByRole("region", { name: "Numbers of 2024 by region" }).getByText("Islands").waitFor();

    const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "/tmp/revenue.png" }).click()]);
    assert.equal(file.suggestedFilename(), "revenue.png");

    await page.getByRole("tab", { name: "Timeline" }).click();
    await page.getByRole("cell", { name: "/data/sales.csv (read)" }).waitFor();
    await picture(page, "timeline");
    await page.getByRole("tab", { name: "Resources" }).click();
    assert.equal(await page.locator("meter").count(), 8);
    // What draws is loaded when it is wanted.
    await page.locator(".resources canvas").nth(3).waitFor();
    assert.deepEqual(await page.locator(".resources .plot h3").allTextContents(), ["Memory and disk held", "Processors in use", "Bytes read and written", "Output, as it came here"]);
    await picture(page, "resources");
    await page.getByRole("tab", { name: "Receipt" }).click();
    await page.getByText("Asked for 13 guarantees, and each is given").waitFor();
    const walls = await page.$$eval("table.walls tbody tr", (rows) => rows.map((row) => [row.children[0].textContent, row.children[1].textContent]));
    // What the processor is to do without, and a core to itself, not every machine has.
    const other = walls.filter(([name]) => !/speculation|core.scheduling/.test(name));
    assert.ok(walls.length === other.length + 2 && other.length > 10 && other.every(([, word]) => word === "stands"), walls.join(";"));
    await page.getByText(/^\/data\/sales\.csv, 1\.1 MiB, SHA-256 [0-9a-f]{64}$/).waitFor();
    await page.getByText(/^Signed when the run ended, by the key [0-9a-f]{64}/).waitFor();
    const [saved] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Save signed receipt" }).click()]);
    assert.match(saved.suggestedFilename(), /\.receipt\.json$/);
    await picture(page, "receipt");
    await quiet(page, "the sales");
  },

  async "a refusal stands at its line"() {
    const page = await open();
    await run(page, 'import socket\nx = 1\nsocket.create_connection(("203.0.113.9", 80))\n');
    assert.deepEqual(await layers(page), ["holds", "stops", "unreached", "unreached", "unreached", "unreached"]);
    const remark = page.locator(".remark.stops");
    assert.match(await remark.textContent(), /^refused: hard-coded-connection /);
    const before = await remark.evaluate((element) => element.parentElement.previousElementSibling.textContent);
    assert.match(before, /^socket\.create_connection/);
    await page.getByRole("tab", { name: /Findings/ }).click();
    await page.getByRole("button", { name: "line 3" }).first().click();
    assert.equal(await page.locator(".cm-activeLine").textContent(), 'socket.create_connection(("203.0.113.9", 80))');
    await picture(page, "refused");
    // Screening alone says the same and runs nothing.
    await page.getByRole("button", { name: "Screen" }).click();
    await page.getByText("Screened only; nothing was run.").waitFor();
    await quiet(page, "a refusal");
  },

  async "an error stands at its line"() {
    const page = await open();
    await run(page, "print('before')\n1 / 0\n");
    const remark = page.locator(".remark.stops");
    assert.match(await remark.textContent(), /^ZeroDivisionError/);
    assert.equal(await remark.evaluate((element) => element.parentElement.previousElementSibling.textContent), "1 / 0");
    await page.locator("pre.stderr").getByText("Traceback").waitFor();
    await quiet(page, "an error");
  },

  async "output comes as it is written, and a run can be stopped"() {
    const page = await open();
    await write(page, "import time\nprint('first', flush=True)\nwhile True:\n    time.sleep(0.05)\n");
    await page.keyboard.press("Control+Enter");
    await page.getByRole("log").getByText("first").waitFor();
    assert.deepEqual((await layers(page)).slice(0, 3), ["holds", "holds", "holds"]);
    assert.ok((await layers(page)).slice(3).every((standing) => standing === "works"));
    assert.match(await page.locator(".ending").textContent(), /^running/);
    await picture(page, "running");
    await page.getByRole("button", { name: "Stop" }).click();
    await page.locator(".ending").getByText("cancelled").first().waitFor();
    await quiet(page, "a long run");
  },

  async "what a program displays as HTML or SVG cannot act"() {
    const page = await open();
    const html = `<p style="color: crimson; background: url(http://evil.example/s)">styled</p><img src="x" onerror="alert(1)"><img src="http://evil.example/p.png">
<script>alert(2); fetch("http://evil.example/f")</script><a href="javascript:alert(3)">link</a><iframe src="http://evil.example/i"></iframe><style>p{font-weight:700}@import "http://evil.example/c.css";</style>
<form action="http://evil.example/g"><button>send</button></form><meta http-equiv="refresh" content="0;url=http://evil.example/m"><link rel="stylesheet" href="http://evil.example/l.css"><base href="http://evil.example/">`;
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="90" height="40" onload="alert(4)"><style>.a{fill:teal}</style><rect class="a" width="80" height="30" onclick="alert(5)"/><script>alert(6)</script><image href="http://evil.example/x.png"/><foreignObject><body onload="alert(7)"/></foreignObject></svg>`;
    await run(page, `from IPython.display import HTML, SVG, display\ndisplay(HTML(${JSON.stringify(html)}))\ndisplay(SVG(${JSON.stringify(svg)}))\n`);
    const frames = page.locator("figure.guest iframe");
    assert.equal(await frames.count(), 2);
    for (const frame of await frames.all()) {
      assert.equal(await frame.getAttribute("sandbox"), "");
      const document = await frame.getAttribute("srcdoc");
      assert.ok(document.includes("default-src 'none'"));
      assert.ok(!/<script|onerror=|onload=|onclick=|javascript:|<form|<iframe|<link|<base|evil\.example/i.test(document.replace(/data-guest-on\w+="[^"]*"/g, "")), document);
    }
    const shown = page.frameLocator("figure.guest iframe").first();
    const colour = await shown.locator("p").evaluate((element) => [getComputedStyle(element).color, getComputedStyle(element).fontWeight]);
    assert.deepEqual(colour, ["rgb(220, 20, 60)", "700"], "harmless styles are kept");
    // A moment in which whatever could act would.
    await page.waitForTimeout(500);
    await picture(page, "guest");
    await quiet(page, "guest markup");
  },

  async "a picture that was saved and not displayed is shown"() {
    const page = await open();
    await run(page, "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.savefig('/tmp/line.png')\nplt.close()\n");
    const saved = page.getByRole("img", { name: "Picture /tmp/line.png" });
    await saved.waitFor();
    await page.waitForFunction(() => document.querySelector(".files img").naturalWidth > 300);
    await page.getByRole("button", { name: "hide" }).click();
    assert.equal(await saved.count(), 0);
    await quiet(page, "a saved picture");
  },

  async "by keyboard alone"() {
    const page = await open();
    // From the page's beginning to the editor, and out of it again: Tab is never caught.
    const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent.trim());
    const seen = [];
    for (let step = 0; step < 30 && seen.at(-1) !== "Add files"; step += 1) {
      await page.keyboard.press("Tab");
      seen.push(await focused());
    }
    assert.equal(seen[0], "Skip to the content");
    for (const name of ["History", "Screen", "Run", "Python program", "Add files"]) assert.ok(seen.includes(name), `${name} in ${seen}`);
    while ((await focused()) !== "Python program") await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Control+A");
    await page.keyboard.type("print(6 * 7)");
    await page.keyboard.press("Control+Enter");
    await page.getByRole("log").getByText("42").waitFor();
    await page.getByRole("tab", { name: "Output" }).focus();
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.getByRole("tab", { selected: true }).textContent(), "Findings");
    await page.keyboard.press("End");
    assert.equal(await page.getByRole("tab", { selected: true }).textContent(), "Receipt");
    assert.match(await page.locator("[role=status]").last().textContent(), /The run has ended: the program ended normally/);
    await quiet(page, "the keyboard");
  },

  async "history is searched, and a run is there again"() {
    const page = await open({ path: "/#/history" });
    const rows = page.locator("table.runs tbody tr");
    await rows.first().waitFor();
    const all = await rows.count();
    assert.ok(all >= 5, `${all} runs`);
    await page.getByRole("searchbox", { name: "Search" }).fill("refused");
    await page.waitForFunction(() => document.querySelectorAll("table.runs tbody tr").length === 1);
    await page.getByRole("searchbox", { name: "Search" }).fill("sales.csv exited");
    await page.waitForFunction(() => document.querySelectorAll("table.runs tbody tr").length === 1);
    await picture(page, "history");
    await page.locator("table.runs a").click();
    await page.getByRole("log").getByText("15,846 orders").waitFor();
    assert.deepEqual(await layers(page), LAYERS.map(() => "holds"));
    await page.getByRole("tab", { name: "Timeline" }).click();
    await page.getByRole("cell", { name: "/data/sales.csv (read)" }).waitFor();
    await picture(page, "run");
    await page.getByRole("tab", { name: "Resources" }).click();
    await page.locator(".resources canvas").nth(2).waitFor();
    assert.equal(await page.locator(".resources canvas").count(), 3, "when output came is known only to who watched");
    await quiet(page, "history");
  },

  async "alerts, attacks, keys and policies"() {
    const page = await open({ path: "/#/alerts" });
    await page.getByRole("cell", { name: "refused", exact: true }).waitFor();
    await picture(page, "alerts");
    await page.getByRole("link", { name: "Attacks" }).click();
    await page.getByRole("rowheader", { name: "chroot escape" }).waitFor();
    assert.ok((await page.locator("table.matrix tbody tr:not(.group)").count()) >= 60);
    await picture(page, "attacks");
    await page.getByRole("link", { name: "Keys and policies" }).click();
    await page.getByRole("columnheader", { name: /data-analysis/ }).waitFor();
    await page.getByText("for which no key is needed").waitFor();
    await page.getByRole("region", { name: "Backends" }).getByText("wasm", { exact: true }).waitFor();
    await picture(page, "access");
    await quiet(page, "the other views");
  },

  async "everybody can use every view, in the light and in the dark"() {
    for (const scheme of ["light", "dark"]) {
      const page = await open({ scheme });
      await accessible(page, `${scheme}: the first view`);
      await run(page, 'import socket\nimport pandas as pd\nprint(1)\npd.DataFrame({"a": [1, 2], "b": ["x", None]})\n');
      await accessible(page, `${scheme}: output`);
      for (const tab of ["Findings", "Timeline", "Resources", "Receipt"]) {
        await page.getByRole("tab", { name: tab }).click();
        await page.waitForTimeout(200);
        await accessible(page, `${scheme}: ${tab}`);
      }
      for (const view of ["History", "Alerts", "Attacks", "Keys and policies"]) {
        await page.getByRole("link", { name: view, exact: true }).click();
        await page.getByRole("heading", { level: 2 }).waitFor();
        await page.waitForTimeout(500);
        await accessible(page, `${scheme}: ${view}`);
        await picture(page, `${scheme}-${view.split(" ")[0].toLowerCase()}`);
      }
      await page.context().close();
    }
  },

  async "a narrow page has no sideways scrolling"() {
    const page = await open({ width: 800, scheme: "dark" });
    await run(page, "print('x' * 300)\n");
    for (const view of ["", "history", "alerts", "attacks", "access"]) {
      await page.goto(`${base}/#/${view}`);
      await page.waitForTimeout(300);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(over, 0, `#/${view} is wider than the page by ${over}`);
    }
    await picture(page, "narrow");
  },
};

/** Those of a server that has keys. What it answers without one the browser tells as an error of its own. */
const keyed = {
  async "a key is typed in, kept by the tab alone, and forgotten"() {
    const page = await open();
    await page.getByRole("alert").getByText("there is no key in the request").waitFor();
    await page.getByRole("link", { name: "Keys and policies" }).click();
    await page.getByLabel("Key", { exact: true }).fill(KEY);
    await page.getByRole("button", { name: "Use" }).click();
    await page.getByRole("rowheader", { name: /^key-[0-9a-f]+ \(yours\)$/ }).waitFor();
    assert.ok(!(await page.content()).includes(KEY), "the key is shown");
    await picture(page, "keyed");
    await page.getByRole("link", { name: "Run", exact: true }).click();
    await run(page, "print('with a key')\n");
    await page.getByRole("log").getByText("with a key").waitFor();
    const other = await page.context().newPage();
    await other.goto(`${base}/`);
    await other.getByRole("alert").getByText("there is no key in the request").waitFor();
    await page.getByRole("link", { name: "Keys and policies" }).click();
    await page.getByRole("button", { name: "Forget it" }).click();
    await page.getByRole("alert").first().waitFor();
    assert.deepEqual(wrong.filter((one) => !one.includes("401")), []);
    assert.deepEqual(await page.evaluate(() => globalThis.violations), []);
  },
};

for (const [name, step] of Object.entries(KEY ? keyed : steps)) {
  if (!name.includes(only)) continue;
  try {
    await step();
    console.log(`ok: ${name}`);
  } catch (error) {
    console.log(`FAILED: ${name}\n${error.stack}`);
    for (const context of browser.contexts()) for (const page of context.pages()) await page.screenshot({ path: join(pictures, "failed.png") }).catch(() => {});
    process.exitCode = 1;
    break;
  }
  for (const context of browser.contexts()) await context.close();
}
await browser.close();
