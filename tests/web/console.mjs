// console.mjs SLIPWAY WEB: the console's pages in Chromium against a real `slipway serve`, each held against axe. Prints TAP.
// WEB is the folder whose node_modules holds playwright-core and axe-core.
import { execFileSync, spawn } from 'node:child_process';
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
function api(method, path, body, headers = {}, identity = {}) {
  return new Promise((resolve, reject) => {
    const sent = body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body);
    const call = request({ host: '127.0.0.1', port, method, path, rejectUnauthorized: false, ...identity, headers: { 'Content-Type': 'application/json', Cookie: cookie, 'X-CSRF-Token': csrf, ...headers } }, response => {
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

// A replicator as the factory knows one: enrolled, with a certificate; it tells what the test wants every half second.
async function replicator(name) {
  const key = join(folder, `${name}.key`), csr = join(folder, `${name}.csr`);
  execFileSync('openssl', ['req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key, '-subj', '/CN=x', '-out', csr], { stdio: 'ignore' });
  const { token } = (await api('POST', '/v1/enrolments', { kind: 'replicator', name })).body;
  const { certificate_pem: cert } = (await api('POST', '/v1/enrol', { token, csr_pem: readFileSync(csr, 'utf8') })).body;
  const r = { servers: [], answered: 0 };
  const tell = async () => { r.answered = (await api('POST', '/v1/replicator/status', { servers: r.servers, vault: {} }, { Cookie: '' }, { key: readFileSync(key), cert })).status; };
  r.timer = setInterval(() => void tell().catch(() => {}), 500);
  return r;
}

const MIB = 1 << 20;
const replication = more => ({ state: 'CONTINUOUS', connected: true, tracker: 'ebpf', bytes_total: 4096 * MIB, bytes_done: 4096 * MIB, bytes_read: 4200 * MIB, bytes_sent: 900 * MIB,
  bytes_stored: 800 * MIB, backlog_bytes: 0, lag_ms: 220, eta_ms: 0, eta: null, rate_bytes_per_s: 5 * MIB, churn_bytes_per_s: 40000, limit_bytes_per_s: 0, bottleneck: null, held: false,
  newest_point: 'p1', newest_point_at: new Date(Date.now() - 3000).toISOString(), newest_point_age_ms: 3000, error: null, cause: null,
  points: [{ id: 'p2', at: '2027-03-01T22:00:05.000Z', consistency: 'frozen', freeze_ms: 12, group: 'g1', group_window_us: 321, disks: [] },
    { id: 'p1', at: '2027-03-01T22:00:00.000Z', consistency: 'crash', freeze_ms: 0, group: null, disks: [] }],
  source_latency: { now_us: 0, without_us: 310, with_us: 460, backoff_bytes_per_s: 0 }, ...more });

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
  page.on('console', message => { if (message.type() === 'error' && !/401|503|net::ERR_/.test(message.text())) complaints.push(message.text()); });
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
  await context.setOffline(true);
  await page.getByRole('button', { name: 'Start the wave' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Start the wave' }).click();
  await page.getByRole('dialog').getByText('It is not known whether it was done').waitFor({ timeout: 10000 });
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click();
  await context.setOffline(false);
  await page.waitForTimeout(3000);
  ok((await api('GET', '/v1/waves/w1')).body.run === null, 'what was ordered without a network, and given up, is not sent once there is one again');
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

  const r1 = await replicator('r1');
  r1.servers = [{ server: 'web01', ...replication({}) }, { server: 'db01', ...replication({ state: 'BACKLOG', backlog_bytes: 300 * MIB, lag_ms: 240000, eta_ms: null, eta: 'never',
    rate_bytes_per_s: 1000000, churn_bytes_per_s: 1500000, limit_bytes_per_s: 1000000, bottleneck: 'limit', newest_point_at: new Date(Date.now() - 200000).toISOString(), cause: {
      kind: 'limit_too_low', severity: 'error', text: '300 MiB of changes wait; 12.0 Mbit/s are written anew, 8.0 Mbit/s get across, held up by the limit of 8.0 Mbit/s', advice: 'raise the limit above what is written' } }) }];
  const begun = Date.now();
  const servers = page.getByRole('table', { name: 'Servers' });
  const first = servers.getByRole('row').nth(1);
  await servers.getByText('held up by the limit of 8.0 Mbit/s').waitFor({ timeout: 10000 });
  ok(Date.now() - begun < 10000, `a server that does not keep up is seen within ten seconds, with its cause (${Date.now() - begun} ms)`, r1.answered);
  const said = await first.innerText();
  ok(said.includes('db01') && said.includes('Backlog') && said.includes('never') && said.includes('300 MiB') && said.includes('12.0 Mbit/s') && said.includes('What to do: raise the limit'),
    'it comes first, with state, ETA, backlog, churn and what to do, without a click', said);
  await accessible(page, 'wave-behind');
  await page.goBack();
  const troubled = page.getByRole('table', { name: 'Replication that does not keep up' });
  await troubled.getByText('held up by the limit of 8.0 Mbit/s').waitFor({ timeout: 10000 });
  ok(await troubled.getByRole('row').count() === 2, 'the first page says so, too, of all waves, and names no other server', await troubled.innerText());
  await accessible(page, 'waves-behind');
  await page.goForward();
  const pushed = await api('POST', '/v1/servers/db01/push', {});
  const beside = page.getByRole('table', { name: 'Push an agent again: db01' });
  await beside.getByRole('button', { name: /Push the agent again.* of db01/ }).waitFor({ timeout: 10000 });
  ok(pushed.status === 202, 'a run of one server stands beside the wave\'s own, with its tasks', JSON.stringify(pushed));
  await accessible(page, 'wave-beside');
  let told = 'FAILED';
  await page.route('**/v1/runs/*', async route => {
    const response = await route.fetch(), run = await response.json(), task = run.tasks.find(task => task.name === 'sign_off' && task.server === 'web01');
    if (task) Object.assign(task, { state: told, waits_for: told === 'WAITING' ? { kind: 'person', what: 'a sign-off', until: null } : null });
    await route.fulfill({ response, json: run });
  });
  await api('POST', `/v1/runs/${pushed.body.run}/cancel`, {});
  await page.getByRole('button', { name: 'Retry' }).click();
  await page.getByRole('dialog').getByText('Retry “').waitFor();
  told = 'WAITING';
  await api('POST', '/v1/servers/db01/push', {});
  await page.getByRole('button', { name: 'Approve' }).first().waitFor({ timeout: 10000 });
  ok(await page.getByRole('dialog').filter({ visible: true }).count() === 0, 'the question whether to retry does not become the one whether to approve when somebody else was quicker');
  await page.unroute('**/v1/runs/*');
  await servers.getByRole('columnheader', { name: 'Server' }).getByRole('button').click();
  ok((await first.innerText()).includes('db01') && (await servers.getByRole('row').nth(2).innerText()).includes('web01'), 'sorted by name');
  await servers.getByRole('columnheader', { name: 'Server' }).getByRole('button').click();
  ok((await first.innerText()).includes('web01'), 'and the other way round');
  await servers.getByRole('link', { name: 'db01' }).click();
  await page.getByRole('heading', { name: 'db01' }).waitFor();
  await page.getByText('What to do: raise the limit above what is written').waitFor();
  await page.getByRole('img', { name: /backlog 300 MiB, written anew 12\.0 Mbit\/s, gets across 8\.0 Mbit\/s/ }).waitFor({ timeout: 10000 });
  ok(await page.locator('.chart canvas').count() === 1, 'the server\'s page has its cause and a chart');
  await page.getByText('0.31 ms without the agent, 0.46 ms while it reads', { exact: true }).waitFor();
  const points = page.getByRole('table', { name: 'Recovery points' });
  await points.getByText('g1').waitFor({ timeout: 10000 });
  const rows = await points.getByRole('row').allInnerTexts();
  ok(rows.length === 3 && /Moment \(.+\)/.test(rows[0]) && /2027[^]*frozen\s+12 ms\s+g1\s+321/.test(rows[1]) && /2027[^]*crash\s+0 ms\s+–\s+–/.test(rows[2]),
    'and its newest points: when, in which zone, and how each was taken', rows.join('\n'));
  ok(true, 'and what an I/O at the source takes without the agent and with it');
  await accessible(page, 'server');
  r1.servers = [r1.servers[0], { server: 'db01', ...replication({ eta_ms: 30000, state: 'BACKLOG', backlog_bytes: 30 * MIB }) }];
  await page.getByText('30 s', { exact: true }).waitFor({ timeout: 10000 });
  ok(await page.getByText('What to do').count() === 0, 'when the writer stops, an ETA is there, and the cause is gone');

  await page.goto(`https://127.0.0.1:${port}/waves/w1`);
  await page.mouse.move(0, 0); // over the rows it would hold them
  r1.servers = [{ server: 'web01', ...replication({ lag_ms: 900 }) }, { server: 'db01', ...replication({ lag_ms: 100 }) }];
  await page.waitForTimeout(5000);
  ok((await first.innerText()).includes('db01'), 'rows stand still while all is well: a lag of milliseconds, which differs with each report, moves none', await servers.innerText());
  const many = Array.from({ length: 60 }, (_, i) => `w2,shop,app${String(i).padStart(2, '0')}.example.com,anna,192.0.2.${100 + i}`).join('\n');
  await api('POST', '/v1/imports?dry_run=false&create_waves=true', `wave,application,server,owner,address\n${many}\n`, { 'Content-Type': 'text/csv' });
  await page.goto(`https://127.0.0.1:${port}/waves/w2`);
  await servers.getByText('app49').waitFor();
  ok(await servers.getByRole('row').count() === 51, 'many servers come in pages');
  await page.getByRole('button', { name: 'Next page' }).first().click();
  await servers.getByText('app59').waitFor();
  await page.getByRole('searchbox', { name: /Find a server/ }).fill('app07');
  await servers.getByText('app07').waitFor();
  ok(await servers.getByRole('row').count() === 2, 'and one of them is found');
  await accessible(page, 'wave-many');
  await page.goto(`https://127.0.0.1:${port}/servers/app07.example.com`);
  await page.getByRole('heading', { name: 'app07.example.com' }).waitFor();
  ok(true, 'the page of a server whose name has dots can be opened by its address');

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
  r1.servers = [r1.servers[0], { server: 'db01', ...replication({ state: 'STALLED', connected: false, cause: { kind: 'agent_away', severity: 'error', text: 'the agent is not connected', advice: 'check that the source runs' } }) }];
  await dark.getByRole('link', { name: 'db01' }).click();
  await dark.getByText('What to do: check that the source runs').waitFor();
  const figures = await dark.getByText('Caught up in').locator('xpath=../../../..').innerText();
  ok(/Caught up in\s+unknown/.test(figures) && /Lag\s+unknown/.test(figures) && /Gets across \(rate\)\s+unknown/.test(figures), 'what was said last of a server that is away is not shown as of now', figures);
  await dark.locator('.chart canvas').waitFor({ timeout: 10000 });
  await accessible(dark, 'server-dark');

  const late = await (await browser.newContext({ ignoreHTTPSErrors: true, storageState: await context.storageState() })).newPage();
  await late.clock.install();
  await late.route('**/v1/events', route => route.fulfill({ status: 503, body: '' }));
  await late.goto(`https://127.0.0.1:${port}/waves/w1`);
  const connecting = late.getByText('Connecting to the live feed');
  await connecting.waitFor();
  await late.unroute('**/v1/events');
  await connecting.waitFor({ state: 'hidden', timeout: 20000 });
  ok(true, 'a live feed that was refused is asked for again');
  serve.kill('SIGSTOP');
  await late.clock.fastForward(60000);
  await late.getByText('Nothing has been heard from it since').waitFor({ timeout: 10000 });
  await accessible(late, 'factory-silent');
  serve.kill('SIGCONT');
  await late.getByText('Nothing has been heard from it since').waitFor({ state: 'hidden', timeout: 20000 });
  ok(true, 'a factory that does not answer is told of, with the moment that what is shown is of, until it does');
  await late.context().clearCookies();
  await late.clock.fastForward(31000);
  await late.getByRole('heading', { name: 'Sign in to Slipway' }).waitFor({ timeout: 10000 });
  ok(true, 'when the session is over one is asked to sign in');
  clearInterval(r1.timer);
  ok(complaints.length === 0, 'the pages logged no error', complaints.join('\n'));
} catch (error) {
  ok(false, 'the console was walked through to the end', `${error.stack}\n${log.join('').slice(-2000)}`);
} finally {
  await browser?.close();
  serve.kill('SIGCONT');
  serve.kill('SIGTERM');
  const stopped = await Promise.race([new Promise(resolve => serve.once('exit', resolve)), new Promise(resolve => setTimeout(resolve, 10000, 'late'))]);
  if (!ok(stopped === 0, 'serve ends in order', stopped)) serve.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
}
console.log(`1..${count}`);
process.exit(failed ? 1 : 0);
