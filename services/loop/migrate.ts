/** Brings the schema of the ledger up to date and ends: what the chart runs before an upgrade. */

import { loadConfig } from '@plumb/kit/config';
import { describeError, PlumbError } from '@plumb/kit/errors';
import { openDatabase } from './adapters/ledger/database.ts';
import { loopSettings } from './config.ts';

try {
  const { databaseUrl } = loadConfig(loopSettings.pick({ databaseUrl: true }), process.env);
  const database = await openDatabase(databaseUrl);
  await database.destroy();
  process.stdout.write('The schema of the ledger is up to date.\n');
} catch (thrown) {
  const error = PlumbError.from(thrown);
  process.stderr.write(`migrate: ${describeError(error)}\n`);
  process.exitCode = error.reason === 'CONFIGURATION_INVALID' ? 2 : 1;
}
