// console.mjs SLIPWAY WEB: the console's pages in Chromium against a real `slipway serve`, each held against axe. Prints TAP.
// WEB is the folder whose node_modules holds playwright-core and axe-core.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { request } from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [slipway, web] = process.argv.slice(2);
const require = createRequire(join(web, 'package.json'));
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const shots = process.env.SLIPWAY_SHOTS;

let count = 0, failed = 0;
function ok(passed, name, detail) {
  console.log(`${passed ? 'ok' : 'not ok'} ${++count} - ${name}`);
  if (!passed) { failed++; if (detail !== undefined) console.log(`# ${String(detail).replaceAll('\n', '\n# ')}`); }
  return passed;
}

const freePort = () => new Promise((resolve, reject) => {
  const server = createServer();
  server.once('error', reject);
  server.listen(0, '127.0.0.1', () => { const { port } = server.address(); server.close(() => resolve(port)); });
});

const folder = mkdtempSync(join(tmpdir(), 'slipway-web-'));
const password = 'correct horse battery staple';
const port = await freePort();
writeFileSync(join(folder, 'password'), password, { mode: 0o600 });
const log = [];
const serve = spawn(slipway, ['serve', '--data', join(folder, 'data'), '--listen', `127.0.0.1:${port}`, '--no-runner', '--no-replicator',
  '--init-user', 'anna', '--init-password-file', join(folder, 'password')], { stdio: ['ignore', 'pipe', 'pipe'] });
serve.stdout.on('data', text => log.push(text));
serve.stderr.on('data', text => log.push(text));

// A client of the API beside the browser: another person who works at the same time.
let cookie = '', csrf = '';
function api(method, path, body, headers = {}) {
  return new Promise((resolve, reject) => {
    const sent = body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body);
    const call = request({ host: '127.0.0.1', port, method, path, rejectUnauthorized: false, headers: { 'Content-Type': 'application/json', Cookie: cookie, 'X-CSRF-Token': csrf, ...headers } }, response => {
      const parts = [];
      response.on('data', part => parts.push(part));
      response.on('end', () => {
        const set = response.headers['set-cookie']?.[0];
        if (set) cookie = set.split(';')[0];
        const text = Buffer.concat(parts).toString();
        resolve({ status: response.statusCode, body: text.startsWith('{') ? JSON.parse(text) : text });
      });
    });
    call.on('error', reject);
    call.end(sent);
  });
}

async function started() {
  for (let turn = 0; turn < 150; turn++) {
    if (serve.exitCode !== null) throw new Error(`serve ended: ${log.join('')}`);
    try { if ((await api('GET', '/healthz')).status === 200) return; } catch { /* not yet */ }
    await new Promise(resolve => setTimeout(resolve, 100));
  }
  throw new Error(`serve did not answer: ${log.join('')}`);
}

async function accessible(page, name) {
  await page.evaluate(axe);
  // What is still fading in has not its own colours yet.
  await page.evaluate(() => Promise.allSettled(document.getAnimations().map(animation => animation.finished)));
  const found = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] }));
  ok(found.violations.length === 0, `${name}: axe finds nothing`, found.violations.map(v => `${v.id}: ${v.help}: ${v.nodes[0]?.html}`).join('\n'));
  if (shots) await page.screenshot({ path: join(shots, `${name}.png`) });
}

let browser;
try {
  await started();
  const login = await api('POST', '/v1/sessions', { name: 'anna', password });
  csrf = login.body.csrf;
  ok(login.status < 300 && csrf, 'the first user signs in over the API', JSON.stringify(login));

  browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'] });
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  const complaints = [];
  page.on('pageerror', error => complaints.push(String(error)));
  page.on('console', message => { if (message.type() === 'error' && !message.text().includes('401')) complaints.push(message.text()); });
  await page.goto(`https://127.0.0.1:${port}/`);
  await page.getByLabel('Name').fill('anna');
  await accessible(page, 'sign-in');
  await page.getByLabel('Password').fill('wrong');
  await page.keyboard.press('Enter');
  await page.getByText('Not signed in').waitFor();
  ok(true, 'a wrong password is refused, with words');
  await page.getByLabel('Password').fill(password);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: /^Waves/ }).waitFor();
  ok(true, 'the right one opens the waves, by keyboard alone');
  await page.getByText('No wave yet').waitFor();
  await accessible(page, 'waves-empty');

  const csv = 'wave,application,server,owner,address\nw1,shop,web01,anna,192.0.2.11\nw1,shop,db01,anna,192.0.2.12\n';
  const imported = await api('POST', '/v1/imports?dry_run=false&create_waves=true', csv, { 'Content-Type': 'text/csv' });
  ok(imported.status === 200 && imported.body.applied === true, 'somebody else imports two servers', JSON.stringify(imported));
  await page.getByRole('link', { name: 'w1' }).waitFor({ timeout: 10000 });
  ok(true, 'the new wave appears without a reload');
  await accessible(page, 'waves');
  await page.getByRole('link', { name: 'w1' }).click();
  await page.getByText('db01').first().waitFor();
  await accessible(page, 'wave-before');
  await page.getByRole('button', { name: 'Start the wave' }).click();
  await page.getByRole('dialog').getByText('prerequisites are checked first').waitFor();
  await accessible(page, 'wave-start-asks');
  await page.getByRole('dialog').getByRole('button', { name: 'Start the wave' }).click();
  await page.getByRole('button', { name: /prerequisites of web01/i }).waitFor({ timeout: 10000 });
  ok(true, 'starting it shows its tasks');
  await accessible(page, 'wave');
  await page.getByRole('button', { name: /prerequisites of web01/i }).click();
  await page.getByRole('dialog').getByText('No evidence yet.').waitFor();
  await accessible(page, 'task');
  await page.keyboard.press('Escape');

  await page.goto(`https://127.0.0.1:${port}/doctor`);
  await page.getByRole('heading', { name: 'Doctor' }).waitFor();
  await page.getByText('No', { exact: true }).first().waitFor();
  ok(true, 'doctor says what does not hold (no runner is there)');
  await accessible(page, 'doctor');
  await page.goto(`https://127.0.0.1:${port}/trail`);
  await page.getByText('user:anna').first().waitFor();
  await accessible(page, 'trail');

  const dark = await (await browser.newContext({ ignoreHTTPSErrors: true, colorScheme: 'dark', storageState: await context.storageState() })).newPage();
  await dark.goto(`https://127.0.0.1:${port}/waves/w1`);
  await dark.getByText('db01').first().waitFor();
  await accessible(dark, 'wave-dark');
  ok(complaints.length === 0, 'the pages logged no error', complaints.join('\n'));
} catch (error) {
  ok(false, 'the console was walked through to the end', `${error.stack}\n${log.join('').slice(-2000)}`);
} finally {
  await browser?.close();
  serve.kill('SIGTERM');
  const stopped = await Promise.race([new Promise(resolve => serve.once('exit', resolve)), new Promise(resolve => setTimeout(resolve, 10000, 'late'))]);
  if (!ok(stopped === 0, 'serve ends in order', stopped)) serve.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
}
console.log(`1..${count}`);
process.exit(failed ? 1 : 0);
