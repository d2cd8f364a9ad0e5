// E2B's tests import the sources of its SDKs; here they get the installed packages.
import { createRequire } from 'node:module'
import path from 'node:path'
import { defineConfig } from 'vitest/config'

const installed = (name) => {
  const main = createRequire(import.meta.url).resolve(name)
  return path.join(path.dirname(main), 'index.mjs')
}

export default defineConfig({
  resolve: {
    alias: [
      {
        find: /^(\.\.\/)+src(\/(index|errors)(\.js|\.ts)?)?$/,
        replacement: installed(process.env.CASEMATE_TESTED),
      },
    ],
  },
  test: {
    include: ['tests/**/*.test.ts'],
    exclude: ['tests/runtimes/**'],
    testTimeout: 30_000,
    maxWorkers: 2,
  },
})
