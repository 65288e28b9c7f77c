import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { takeOwnership } from './ownership.ts';
import { emptyStateFolder, markerName, openStateFolder, requireWritableFile } from './state-folder.ts';

const scratch = await mkdtemp(join(tmpdir(), 'plumb state '));
after(() => rm(scratch, { recursive: true, force: true }));

test('a new folder is made and known again', async () => {
  const path = join(scratch, 'new', 'nested');
  await openStateFolder(path);
  assert.deepEqual(await readdir(path), [markerName]);
  await openStateFolder(path);
});

test('a folder that holds something else is left alone', async () => {
  const path = join(scratch, 'photos');
  await mkdir(path);
  await writeFile(join(path, 'holiday.png'), '');
  await assert.rejects(openStateFolder(path), /is not a Plumb state folder .* --state/);
  assert.deepEqual(await readdir(path), ['holiday.png']);
});

test('starting over removes only what Plumb made', async () => {
  const folder = await openStateFolder(join(scratch, 'used'));
  await mkdir(folder.entry('artifacts'));
  await mkdir(folder.entry('ledger'));
  await writeFile(join(folder.path, 'notes.txt'), 'mine');
  await emptyStateFolder(folder);
  assert.deepEqual((await readdir(folder.path)).toSorted(), ['notes.txt', markerName]);
});

test('a path that cannot be a folder is one sentence with the way out', async () => {
  const file = join(scratch, 'file');
  await writeFile(file, '');
  await assert.rejects(
    openStateFolder(join(file, 'state')),
    /the state folder .*file\/state cannot be written \(ENOTDIR\): name another folder with --state/,
  );
  await assert.rejects(
    requireWritableFile(join(file, 'report.html'), '--report'),
    /cannot be written .* --report/,
  );
  await assert.rejects(requireWritableFile(scratch, '--report'), /is a folder; name a file with --report/);
});

test('two processes do not share a folder', async () => {
  const folder = await openStateFolder(join(scratch, 'shared'));
  const release = await takeOwnership(folder, 'demo');
  await assert.rejects(
    takeOwnership(folder, 'up'),
    new RegExp(`is in use by process ${process.pid} \\(plumb demo\\)`),
  );
  await release();
  const again = await takeOwnership(folder, 'up');
  await again();
});

test('a lock that a killed process left behind is taken over', async () => {
  const folder = await openStateFolder(join(scratch, 'left'));
  const modules = {
    state: new URL('state-folder.ts', import.meta.url).href,
    ownership: new URL('ownership.ts', import.meta.url).href,
  };
  const program = `
    import { openStateFolder } from ${JSON.stringify(modules.state)};
    import { takeOwnership } from ${JSON.stringify(modules.ownership)};
    await takeOwnership(await openStateFolder(${JSON.stringify(folder.path)}), 'demo');
    console.log('mine');
    setInterval(() => {}, 1000);`;
  const other = spawn(process.execPath, ['--input-type=module-typescript', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(other.stdout, 'data');
  await assert.rejects(
    takeOwnership(folder, 'up'),
    new RegExp(`is in use by process ${other.pid} \\(plumb demo\\)`),
  );
  other.kill('SIGKILL');
  await once(other, 'exit');
  const release = await takeOwnership(folder, 'up');
  await release();
});
