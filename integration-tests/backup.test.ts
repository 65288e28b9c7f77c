import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { appendFile, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { connectBus, messageCodec } from '@plumb/kit/bus';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore } from '@plumb/media';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import pg from 'pg';
import { postgresMissing, startPostgres } from '../services/loop/testing/postgres-server.ts';
import type { PostgresServer } from '../services/loop/testing/postgres-server.ts';
import { startPlumb } from './support/command-line.ts';

const root = resolve(import.meta.dirname, '..');
const options = postgresMissing === undefined ? { timeout: 240_000 } : { skip: postgresMissing };
const folder = await mkdtemp(join(tmpdir(), 'plumb backup '));

/** A deployment as a backup sees it: a database, a broker, a store. */
interface Place {
  readonly database: PostgresServer;
  readonly nats: TestNatsServer;
  readonly artifacts: string;
}
let source: Place;
let target: Place;

const place = async (name: string): Promise<Place> => ({
  database: await startPostgres(),
  nats: await startNatsServer(),
  artifacts: join(folder, name),
});

const environment = ({ database, nats, artifacts }: Place): Record<string, string> => ({
  PLUMB_DATABASE_URL: database.url,
  PLUMB_NATS_URL: nats.url,
  PLUMB_ARTIFACTS: artifacts,
});

async function plumb(at: Place, ...args: string[]): Promise<{ code: number | null; said: string }> {
  const command = startPlumb(args, folder, environment(at));
  const code = await command.ended;
  return { code, said: `${command.stdout()}${command.stderr()}` };
}

async function rows(at: Place, query: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: at.database.url });
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(query)).rows;
  } finally {
    await client.end();
  }
}

if (postgresMissing === undefined) {
  before(async () => {
    [source, target] = [await place('source'), await place('target')];
  });
}

after(async () => {
  if (postgresMissing === undefined) {
    for (const { database, nats } of [source, target]) {
      await database.stop();
      await nats.stop();
    }
  }
  await rm(folder, { recursive: true, force: true });
});

test(
  'a backup brings back ledger, registry and what they name, into an empty deployment only',
  options,
  async () => {
    // The real schema, and a row that names a manifest, which names a clip.
    execFileSync(process.execPath, [join(root, 'services/loop/migrate.ts')], {
      env: { ...process.env, ...environment(source) },
    });
    const store = await openFolderStore(source.artifacts);
    const put = async (text: string): Promise<string> =>
      (await store.put(Buffer.from(text), { mediaType: 'application/octet-stream' })).sha256;
    const clip = await put('a clip');
    const manifest = await put(JSON.stringify({ clips: [`artifact:sha256/${clip}`] }));
    const weights = await put('weights');
    const unknown = await put('nobody names me');
    await rows(source, 'create table note (text text)');
    await rows(source, `insert into note values ('artifact:sha256/${manifest}')`);
    const bus = await connectBus({ url: source.nats.url, name: 'test' });
    const models = await bus.keyValue('plumb_models', messageCodec(ModelVersionSchema), { history: 10 });
    await models.create('version.one', {
      version: 'toybox@one',
      weights: { uri: `artifact:sha256/${weights}`, sha256: weights },
    });
    await bus.close();

    const backup = join(folder, 'backup');
    const made = await plumb(source, 'backup', 'create', '--output', backup);
    assert.equal(made.code, 0, made.said);
    assert.match(made.said, /the ledger and 3 artifacts/);
    const again = await plumb(source, 'backup', 'create', '--output', backup);
    assert.equal(again.code, 1);
    assert.match(again.said, /is not empty; name a new folder/);

    const onto = await plumb(source, 'backup', 'restore', backup);
    assert.equal(onto.code, 1);
    assert.match(onto.said, /has \d+ tables already; restore into an empty one/);

    const restored = await plumb(target, 'backup', 'restore', backup);
    assert.equal(restored.code, 0, restored.said);
    const tables =
      "select table_name from information_schema.tables where table_schema = 'public' order by 1";
    assert.deepEqual(await rows(target, tables), await rows(source, tables));
    assert.deepEqual(await rows(target, 'select text from note'), [{ text: `artifact:sha256/${manifest}` }]);
    const there = await openFolderStore(target.artifacts);
    for (const hash of [clip, manifest, weights]) await there.get(`artifact:sha256/${hash}`, hash);
    assert.equal(await there.has(unknown), false);
    const other = await connectBus({ url: target.nats.url, name: 'test' });
    const found = await (
      await other.keyValue('plumb_models', messageCodec(ModelVersionSchema), { history: 10 })
    ).get('version.one');
    assert.equal(found?.value.version, 'toybox@one');
    await other.close();
    // The schema is the one that this version wants: nothing is migrated.
    const doctor = await plumb(target, 'doctor', '--json');
    const { findings } = JSON.parse(doctor.said.split('\n')[0] ?? '') as {
      findings: { subject: string; result: string; found: string }[];
    };
    const database = findings.find(({ subject }) => subject === 'database');
    assert.equal(database?.result, 'ok', database?.found);
  },
);

test('a damaged backup is not restored', options, async () => {
  const backup = join(folder, 'backup');
  assert.ok(existsSync(backup) && (await readdir(backup)).includes('backup.json'));
  await appendFile(join(backup, 'ledger.sql'), '-- changed\n');
  const empty = await place('empty');
  try {
    const { code, said } = await plumb(empty, 'backup', 'restore', backup);
    assert.equal(code, 1);
    assert.match(said, /ledger\.sql is not what was backed up/);
    assert.deepEqual(
      await rows(empty, "select 1 from information_schema.tables where table_schema = 'public'"),
      [],
    );
    const nothing = await plumb(empty, 'backup', 'restore', folder);
    assert.match(nothing.said, /is no finished backup/);
  } finally {
    await empty.database.stop();
    await empty.nats.stop();
  }
});
