// Small parts that several views are made of.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { inWords } from "../lib/session";

/** One of several ways to look at the same thing. */
export function Choice({ name, options, chosen, choose }: { name: string; options: string[]; chosen: string; choose: (option: string) => void }) {
  return (
    <div class="choice" role="group" aria-label={name}>
      {options.map((option) => (
        <button type="button" key={option} aria-pressed={option === chosen} onClick={() => choose(option)}>
          {option}
        </button>
      ))}
    </div>
  );
}

export interface Tab {
  id: string;
  label: string;
  badge?: number;
  body: () => ComponentChildren;
}

/** Tabs as a keyboard knows them: arrows go from one to the next. */
export function Tabs({ name, tabs }: { name: string; tabs: Tab[] }) {
  const [chosen, choose] = useState(tabs[0]?.id ?? "");
  const list = useRef<HTMLDivElement>(null);
  const current = tabs.find((tab) => tab.id === chosen) ?? tabs[0];
  const move = (event: KeyboardEvent) => {
    const at = tabs.findIndex((tab) => tab.id === current?.id);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    if (!next) return;
    choose(next.id);
    list.current?.querySelector<HTMLElement>(`#tab-${next.id}`)?.focus();
  };
  return (
    <div class="tabs">
      <div class="tab-list" role="tablist" aria-label={name} ref={list} onKeyDown={move}>
        {tabs.map((tab) => (
          <button
            type="button"
            role="tab"
            key={tab.id}
            id={`tab-${tab.id}`}
            aria-selected={tab === current}
            aria-controls="tab-panel"
            tabIndex={tab === current ? 0 : -1}
            onClick={() => choose(tab.id)}
          >
            {tab.label}
            {tab.badge ? <span class="badge">{tab.badge}</span> : null}
          </button>
        ))}
      </div>
      <div class="tab-panel" role="tabpanel" id="tab-panel" aria-labelledby={`tab-${current?.id}`} tabIndex={0}>
        {current?.body()}
      </div>
    </div>
  );
}

/** What a view asks the server for. */
export function useAsked<T>(ask: () => Promise<T>, on: unknown[] = []): { value: T | null; error: string | null; again: () => void } {
  const [state, set] = useState<{ value: T | null; error: string | null }>({ value: null, error: null });
  const [turn, next] = useState(0);
  useEffect(() => {
    let gone = false;
    ask().then(
      (value) => gone || set({ value, error: null }),
      (error: unknown) => gone || set({ value: null, error: inWords(error) }),
    );
    return () => void (gone = true);
  }, [turn, ...on]);
  return { ...state, again: () => next((was) => was + 1) };
}

export function Trouble({ text }: { text: string | null }) {
  if (!text) return null;
  return (
    <p class="trouble" role="alert">
      {text}
    </p>
  );
}

export function Word({ kind, children }: { kind: string; children: ComponentChildren }) {
  return <span class={`word ${kind}`}>{children}</span>;
}

/** A table that is wide scrolls by itself, also by keyboard. */
export function Scroll({ label, children, class: kind = "" }: { label: string; children: ComponentChildren; class?: string }) {
  return (
    <div class={`scroll ${kind}`} role="region" aria-label={label} tabIndex={0}>
      {children}
    </div>
  );
}
