import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { connectBus } from '../bus.ts';
import { createAuthority, writeFiles } from '../testing/certificates.ts';
import { startNatsServer } from '../testing/nats-server.ts';

test('a broker with TLS and users: its authority and the password are needed', async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'plumb-broker-'));
  const authority = await createAuthority('brokers');
  const other = await createAuthority('somebody else');
  const { certificate, key } = await authority.issue([{ type: 'dns', value: 'localhost' }]);
  const files = await writeFiles(folder, {
    'nats.crt': certificate,
    'nats.key': key,
    'ca.crt': authority.certificate,
    'other.crt': other.certificate,
    password: 'correct horse\n',
    wrong: 'battery staple\n',
  });
  const { configuration } = await writeFiles(folder, {
    configuration: `
tls { cert_file: "${files['nats.crt']}", key_file: "${files['nats.key']}" }
authorization { users: [{ user: plumb, password: "correct horse" }] }
`,
  });
  const server = await startNatsServer({ configuration });
  t.after(async () => {
    await server.stop();
    rmSync(folder, { recursive: true });
  });
  // The client checks names of certificates and no addresses.
  const url = `nats://localhost:${server.port}`;
  const name = 'kit-test';
  const caFile = files['ca.crt'];

  const bus = await connectBus({
    url,
    name,
    access: { user: 'plumb', passwordFile: files.password, caFile },
  });
  await bus.ensureStreams();
  await bus.close();

  const refused = { url, name, connectTimeoutMs: 1000 };
  await assert.rejects(
    connectBus({ ...refused, access: { user: 'plumb', passwordFile: files.wrong, caFile } }),
    {
      code: 'UNAUTHENTICATED',
    },
  );
  await assert.rejects(connectBus({ ...refused, access: { caFile } }), { code: 'UNAUTHENTICATED' });
  await assert.rejects(
    connectBus({
      ...refused,
      access: { user: 'plumb', passwordFile: files.password, caFile: files['other.crt'] },
    }),
    { code: 'UNAVAILABLE' },
  );
  await assert.rejects(
    connectBus({ ...refused, access: { user: 'plumb', passwordFile: path.join(folder, 'none') } }),
    /PLUMB_NATS_PASSWORD_FILE=.*cannot be read/,
  );
});
