import { defineConfig } from 'vite';

export default defineConfig({
  root: import.meta.dirname,
  base: '/',
  build: {
    target: 'es2023',
    outDir: 'dist',
    emptyOutDir: true,
    // The policy of the page forbids scripts and styles that stand in it, and inlined assets are just that.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
