// embed.mjs DIST OUT: compresses every file of DIST (brotli where it shrinks) into OUT and writes OUT/console_files.c, whose table
// api/console.c serves. @PACKED@ in it stands for OUT, which build.sh fills in.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { extname, join, relative, sep } from 'node:path';
import { brotliCompressSync, constants } from 'node:zlib';

const types = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2', '.woff': 'font/woff', '.png': 'image/png', '.json': 'application/json' };
const [dist, out] = process.argv.slice(2);

function* files(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) => a.name.localeCompare(b.name))) {
    if (entry.name.startsWith('.')) continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* files(path); else yield path;
  }
}

rmSync(out, { recursive: true, force: true });
mkdirSync(out);
const rows = [], blobs = [];
for (const path of files(dist)) {
  const type = types[extname(path)];
  if (!type) throw new Error(`${path}: no media type is known for its ending; add it to embed.mjs`);
  const raw = readFileSync(path);
  const packed = brotliCompressSync(raw, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } });
  const small = packed.length < raw.length * 0.95;
  const index = rows.length;
  writeFileSync(join(out, String(index)), small ? packed : raw);
  blobs.push(`__asm__(".pushsection .rodata\\n.global console_blob_${index}, console_blob_${index}_end\\nconsole_blob_${index}:\\n.incbin \\"@PACKED@/${index}\\"\\nconsole_blob_${index}_end:\\n.byte 0\\n.popsection\\n");\nextern const unsigned char console_blob_${index}[], console_blob_${index}_end[];`);
  rows.push(`    {"/${relative(dist, path).split(sep).join('/')}", "${type}", ${small ? '"br"' : 'NULL'}, "\\"${createHash('sha256').update(raw).digest('hex').slice(0, 20)}\\"", console_blob_${index}, console_blob_${index}_end},`);
}
writeFileSync(join(out, 'console_files.c'), `/* Made by web/embed.mjs. */\n#include "api/console.h"\n\n${blobs.join('\n')}\n\nconst struct console_file console_files[] = {\n${rows.join('\n')}\n    {NULL, NULL, NULL, NULL, NULL, NULL},\n};\n`);
