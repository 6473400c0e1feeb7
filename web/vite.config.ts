import { defineConfig } from 'vite';

export default defineConfig({
  esbuild: { jsx: 'automatic' },
  build: { outDir: process.env.SLIPWAY_WEB_OUT ?? 'dist', emptyOutDir: true, target: 'es2022', modulePreload: { polyfill: false } },
  server: { proxy: { '/v1': { target: process.env.SLIPWAY_URL ?? 'https://127.0.0.1:8443', secure: false } } },
});
