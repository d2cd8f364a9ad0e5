// State that outlives the view that shows it.

import { useEffect, useReducer } from "preact/hooks";

export class Store<T> {
  private readonly heard = new Set<() => void>();

  constructor(private held: T) {}

  get value(): T {
    return this.held;
  }

  set(change: Partial<T>): void {
    this.held = { ...this.held, ...change };
    for (const hear of this.heard) hear();
  }

  listen(hear: () => void): () => void {
    this.heard.add(hear);
    return () => void this.heard.delete(hear);
  }
}

export function useStore<T>(store: Store<T>): T {
  const [, again] = useReducer((turn: number) => turn + 1, 0);
  useEffect(() => store.listen(() => again(undefined as never)), [store]);
  return store.value;
}
