// The frame around the views, and which of them is shown.

import { useEffect, useState } from "preact/hooks";
import { session } from "./lib/session";
import { useStore } from "./lib/store";
import { Access } from "./views/access";
import { AlertsView } from "./views/alerts";
import { Attacks } from "./views/attacks";
import { History, OneRun } from "./views/history";
import { Workbench, useRunKey } from "./views/workbench";

const VIEWS = [
  { path: "", name: "Run" },
  { path: "history", name: "History" },
  { path: "alerts", name: "Alerts" },
  { path: "attacks", name: "Attacks" },
  { path: "access", name: "Keys and policies" },
];

const here = (): string[] => location.hash.replace(/^#\/?/, "").split("/");

function usePlace(): string[] {
  const [place, go] = useState(here());
  useEffect(() => {
    const moved = () => go(here());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return place;
}

export function App() {
  const place = usePlace();
  // Grows when another key is used, so that what was asked with the old one is asked again.
  const [keyed, rekey] = useState(0);
  const { status } = useStore(session);
  const [view = "", id = ""] = place;
  const current = view === "runs" ? "history" : view;
  useEffect(() => {
    const name = VIEWS.find(({ path }) => path === current)?.name ?? "Run";
    document.title = `${name} · Casemate`;
  }, [current]);
  useRunKey();
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>
        Skip to the content
      </a>
      <header>
        <h1>
          <a href="#/">
            <Mark />
            Casemate
          </a>
        </h1>
        <nav aria-label="Views">
          {VIEWS.map(({ path, name }) => (
            <a key={path} href={`#/${path}`} aria-current={path === current ? "page" : undefined}>
              {name}
            </a>
          ))}
        </nav>
        <span class="grow" />
        <a class="docs" href="/docs">
          API
        </a>
        <Theme />
      </header>
      <main id="main" tabIndex={-1}>
        {view === "history" ? <History key={keyed} /> : null}
        {view === "runs" && id ? <OneRun key={`${id} ${keyed}`} id={id} /> : null}
        {view === "alerts" ? <AlertsView key={keyed} /> : null}
        {view === "attacks" ? <Attacks key={keyed} /> : null}
        {view === "access" ? <Access keyed={keyed} changed={() => rekey((was) => was + 1)} /> : null}
        {current === "" ? <Workbench keyed={keyed} /> : null}
      </main>
      <p class="unseen" role="status" aria-live="polite">
        {status}
      </p>
    </>
  );
}

/** The place is in the address's last part, so the link moves the focus itself. */
function skip(event: MouseEvent): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function Mark() {
  return (
    <svg viewBox="0 0 16 16" width="18" height="18" aria-hidden="true" fill="none" stroke="currentColor">
      <rect x="1.5" y="1.5" width="13" height="13" rx="2.5" stroke-width="1.6" />
      <rect x="4.4" y="4.4" width="7.2" height="7.2" rx="1.2" stroke-width="1.2" />
      <circle cx="8" cy="8" r="1.6" fill="currentColor" stroke="none" />
    </svg>
  );
}

const THEMES = ["system", "light", "dark"];
const THEME = "casemate.theme";

function Theme() {
  const [theme, choose] = useState(localStorage.getItem(THEME) ?? "system");
  useEffect(() => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    localStorage.setItem(THEME, theme);
    dispatchEvent(new Event("casemate:theme"));
  }, [theme]);
  return (
    <label class="theme">
      Colours
      <select value={theme} onChange={(change) => choose(change.currentTarget.value)}>
        {THEMES.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}
