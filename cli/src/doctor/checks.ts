import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { promisify } from 'node:util';
import { randomBytes } from 'node:crypto';
import { inspectBroker } from '@plumb/kit/bus';
import { PlumbError } from '@plumb/kit/errors';
import { createClient, healthOf } from '@plumb/kit/rpc';
import { openArtifactStore } from '@plumb/media';
import { EndpointState, JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { ModelRegistryService } from '@plumb/proto/plumb/loop/v1/model_registry_pb.js';
import { ModelState } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { RewardHealth, RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { Deployment, ServiceName } from './deployment.ts';
import { serviceNames } from './deployment.ts';
import { look } from './finding.ts';
import type { Finding } from './finding.ts';

/** Oldest broker that was tried; docs/decisions/nats.md. */
const oldestBroker = [2, 9] as const;
/** From this share on a limit is worth a look before it is reached. */
const nearlyFull = 0.8;
/** Difference of clocks from which signed links and tokens expire at the wrong time, in milliseconds. */
const largestClockSkewMs = 2000;

const percent = (share: number): string => `${Math.round(100 * share)}%`;
const mebibytes = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MiB`;

/** The broker: reached, with JetStream, new enough, with room, with the platform's streams. */
export async function checkBroker({ nats }: Deployment): Promise<readonly Finding[]> {
  return await look(
    'nats',
    'start the broker, or correct PLUMB_NATS_URL and the user; `nats-server -js` runs one',
    async () => {
      const report = await inspectBroker({ ...nats, name: 'plumb', connectTimeoutMs: 5000 });
      const [major = 0, minor = 0] = report.version.split('.').map(Number);
      const old = major < oldestBroker[0] || (major === oldestBroker[0] && minor < oldestBroker[1]);
      const { storageBytes, storageLimitBytes } = report;
      const taken = storageLimitBytes === undefined ? 0 : storageBytes / storageLimitBytes;
      const room =
        storageLimitBytes === undefined
          ? `${mebibytes(storageBytes)} stored`
          : `${mebibytes(storageBytes)} of ${mebibytes(storageLimitBytes)} stored`;
      const broker: Finding = old
        ? {
            subject: 'nats',
            result: 'fail',
            found: `nats-server ${report.version} is too old`,
            fix: `install version ${oldestBroker.join('.')} or newer`,
          }
        : taken > nearlyFull
          ? {
              subject: 'nats',
              result: 'warn',
              found: `nats-server ${report.version}, ${room}`,
              fix: 'give JetStream more storage before it refuses messages',
            }
          : { subject: 'nats', result: 'ok', found: `nats-server ${report.version} with JetStream, ${room}` };
      const streams = report.streams.map(({ name, there, messages, full }): Finding => {
        const subject = `nats: ${name}`;
        if (!there)
          return {
            subject,
            result: 'warn',
            found: 'the stream is not there',
            fix: 'every service makes it when it starts; start one, and look at its log if it stays away',
          };
        const found = `${messages} messages, ${percent(full)} full`;
        return full > nearlyFull
          ? {
              subject,
              result: 'warn',
              found,
              fix: 'a full stream refuses work; see which consumer is behind (`plumb top`)',
            }
          : { subject, result: 'ok', found };
      });
      return [broker, ...streams];
    },
  );
}

/** The artifact store: a probe is written, read back by its hash and removed. */
export async function checkArtifacts({ artifacts }: Deployment): Promise<readonly Finding[]> {
  const subject = 'artifacts';
  if (artifacts === undefined) return [{ subject, result: 'skip', found: 'PLUMB_ARTIFACTS is not set' }];
  return await look(
    subject,
    'correct PLUMB_ARTIFACTS, its credentials and rights, and see to free space',
    async () => {
      const store = await openArtifactStore(artifacts);
      const startMs = performance.now();
      // Random, so that nobody else's bytes are removed.
      const stored = await store.put(randomBytes(4096), { mediaType: 'application/octet-stream' });
      try {
        await store.get(stored.uri, stored.sha256);
      } finally {
        await store.remove(stored.uri);
      }
      const ms = Math.round(performance.now() - startMs);
      return {
        subject,
        result: 'ok',
        found: `${artifacts}: a probe was written, read and removed in ${ms} ms`,
      };
    },
  );
}

/** The ledger of a cluster: reached, with the tables of this version, its clock in step with ours. */
export async function checkDatabase({ databaseUrl }: Deployment): Promise<readonly Finding[]> {
  const subject = 'database';
  if (databaseUrl === undefined)
    return [
      {
        subject,
        result: 'skip',
        found: 'PLUMB_DATABASE_URL is not set; an embedded ledger is opened by its loop alone',
      },
    ];
  return await look(
    subject,
    'correct PLUMB_DATABASE_URL, or start PostgreSQL; see to its user and its pg_hba.conf',
    async () => {
      const { default: pg } = await import('pg');
      const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: 5000 });
      await client.connect();
      try {
        const sentMs = Date.now();
        const { rows } = await client.query<{
          version: string;
          now: Date;
          size: string;
          migrations: string | null;
        }>(
          "select current_setting('server_version') as version, clock_timestamp() as now, " +
            "pg_database_size(current_database()) as size, to_regclass('kysely_migration')::text as migrations",
        );
        const [row] = rows;
        if (row === undefined) throw new TypeError('the database gave no answer');
        const skew = clockFinding('clock: database', row.now.getTime(), sentMs, Date.now());
        const wanted = await knownMigrations();
        const applied =
          row.migrations === null
            ? []
            : (await client.query<{ name: string }>('select name from kysely_migration')).rows.map(
                ({ name }) => name,
              );
        const missing = wanted.filter((name) => !applied.includes(name));
        const unknown = applied.filter((name) => !wanted.includes(name));
        const found = `PostgreSQL ${row.version}, ${mebibytes(Number(row.size))}, ${applied.length} migrations`;
        const schema: Finding =
          unknown.length > 0
            ? {
                subject,
                result: 'fail',
                found: `${found}; this version does not know ${unknown.join(', ')}`,
                fix: 'run the version of Plumb that made them, or a newer one',
              }
            : missing.length > 0
              ? {
                  subject,
                  result: 'warn',
                  found: `${found}; ${missing.join(', ')} not applied`,
                  fix: 'the loop applies them when it starts, the chart before an upgrade',
                }
              : { subject, result: 'ok', found };
        return [schema, skew];
      } finally {
        await client.end();
      }
    },
  );
}

/** Names of the migrations of this version. */
async function knownMigrations(): Promise<string[]> {
  const folder = new URL('../../../services/loop/adapters/ledger/migrations/', import.meta.url);
  return (await readdir(folder)).map((file) => file.replace(/\.ts$/, '')).toSorted();
}

/** Compares a clock that was read between two looks at ours. */
export function clockFinding(subject: string, theirsMs: number, beforeMs: number, afterMs: number): Finding {
  // Exact to half of the time that the question took.
  const skewMs = Math.round(theirsMs - (beforeMs + afterMs) / 2);
  const found = `${Math.abs(skewMs)} ms ${skewMs < 0 ? 'behind' : 'ahead of'} ours`;
  return Math.abs(skewMs) - (afterMs - beforeMs) / 2 > largestClockSkewMs
    ? {
        subject,
        result: 'fail',
        found,
        fix: 'keep the clocks of all machines in step (NTP, chrony): tokens and signed links expire by them',
      }
    : { subject, result: 'ok', found };
}

/** Health of every service (grpc.health.v1). */
export async function checkServices({ services, credentials }: Deployment): Promise<readonly Finding[]> {
  const findings = await Promise.all(
    serviceNames.map(async (name): Promise<readonly Finding[]> => {
      const address = services[name];
      if (address === undefined)
        return [{ subject: name, result: 'skip', found: `${variableOf(name)} is not set` }];
      return await look(
        name,
        `see whether ${name} runs and whether ${address} is its address; look at its log`,
        async () => {
          const status = await healthOf(address, '', { credentials });
          return status === 'SERVING'
            ? { subject: name, result: 'ok', found: `${address} is SERVING` }
            : {
                subject: name,
                result: 'fail',
                found: `${address} is ${status}`,
                fix: 'it starts, stops, or has lost something that it needs; its log says which',
              };
        },
      );
    }),
  );
  return findings.flat();
}

function variableOf(name: ServiceName): string {
  return `PLUMB_${name.toUpperCase()}_ADDRESS`;
}

/** Every reward, as the Reward API itself sees it. */
export async function checkRewards({ services, credentials }: Deployment): Promise<readonly Finding[]> {
  const { reward: address } = services;
  if (address === undefined) return [];
  return await look('rewards', 'see to the reward service first', async () => {
    const client = createClient(RewardService, address, { credentials, defaultDeadlineMs: 10_000 });
    try {
      const { rewards } = await client.listRewards({});
      if (rewards.length === 0)
        return {
          subject: 'rewards',
          result: 'fail',
          found: 'the reward service has no rewards',
          fix: 'set PLUMB_REWARDS to a folder with definitions (docs/rewards.md)',
        };
      return rewards.map(({ name, version, health, healthReason }): Finding => {
        const subject = `reward: ${name}`;
        return health === RewardHealth.SERVING
          ? { subject, result: 'ok', found: `version ${version}` }
          : {
              subject,
              result: 'fail',
              found: healthReason === '' ? RewardHealth[health] : healthReason,
              fix: 'correct its definition, its model files or its judge; the others go on without it (docs/rewards.md)',
            };
      });
    } finally {
      client.close();
    }
  });
}

/** Every judge's endpoint; asks nobody for a verdict, so nothing is paid. */
export async function checkJudges({ services, credentials }: Deployment): Promise<readonly Finding[]> {
  const { judge: address } = services;
  if (address === undefined) return [];
  return await look('judges', 'see to the judge service first', async () => {
    const client = createClient(JudgeService, address, { credentials, defaultDeadlineMs: 10_000 });
    try {
      const [{ judges }, { endpoints }] = await Promise.all([
        client.listJudges({}),
        client.listEndpoints({}),
      ]);
      if (judges.length === 0)
        return {
          subject: 'judges',
          result: 'fail',
          found: 'the judge service has no judges',
          fix: 'name some in PLUMB_JUDGES_FILE (docs/judge.md)',
        };
      return endpoints.map(({ name, state, callsInFlight, concurrency }): Finding => {
        const subject = `endpoint: ${name}`;
        const found = `${callsInFlight} of ${concurrency} calls in flight`;
        return state === EndpointState.SERVING
          ? { subject, result: 'ok', found }
          : {
              subject,
              result: state === EndpointState.DOWN ? 'fail' : 'warn',
              found: `${EndpointState[state]}, ${found}`,
              fix: 'see whether the endpoint answers and its key is valid; what waits is judged when it is back (docs/judge.md)',
            };
      });
    } finally {
      client.close();
    }
  });
}

/** The promoted models of the registry: their weights are in the store, whole. */
export async function checkModels({
  services,
  credentials,
  artifacts,
}: Deployment): Promise<readonly Finding[]> {
  const { loop: address } = services;
  if (address === undefined) return [];
  return await look('models', 'see to the loop service first', async () => {
    const client = createClient(ModelRegistryService, address, { credentials, defaultDeadlineMs: 10_000 });
    try {
      const { modelVersions } = await client.listModelVersions({});
      const promoted = modelVersions.filter(({ state }) => state === ModelState.PROMOTED);
      if (promoted.length === 0)
        return {
          subject: 'models',
          result: 'ok',
          found: `${modelVersions.length} versions, none promoted yet`,
        };
      if (artifacts === undefined)
        return {
          subject: 'models',
          result: 'skip',
          found: 'PLUMB_ARTIFACTS is not set, so weights were not read',
        };
      const store = await openArtifactStore(artifacts);
      const findings: Finding[] = [];
      for (const { version, weights } of promoted) {
        const subject = `model: ${version}`;
        if (weights === undefined || weights.uri === '') {
          findings.push({ subject, result: 'ok', found: 'promoted; a remote model without weights of ours' });
          continue;
        }
        try {
          const { byteLength } = await store.get(weights.uri, weights.sha256);
          findings.push({
            subject,
            result: 'ok',
            found: `promoted, ${mebibytes(byteLength)} of weights with the right hash`,
          });
        } catch (thrown) {
          findings.push({
            subject,
            result: 'fail',
            found: PlumbError.from(thrown).message,
            fix: 'bring the artifact back from a backup (docs/backup.md), or `plumb models rollback` to another version',
          });
        }
      }
      return findings;
    } finally {
      client.close();
    }
  });
}

/** What the runtime of this machine can compute on. */
export async function checkDevices(): Promise<readonly Finding[]> {
  return await look('devices', 'install the packages again (`npm ci`)', async () => {
    const { listSupportedBackends } = await import('onnxruntime-node');
    const backends = listSupportedBackends().map(({ name }) => name);
    const cuda = backends.includes('cuda');
    let cards: string[] = [];
    try {
      const { stdout } = await promisify(execFile)(
        'nvidia-smi',
        ['--query-gpu=name,memory.total', '--format=csv,noheader'],
        {
          timeout: 10_000,
        },
      );
      cards = stdout
        .trim()
        .split('\n')
        .filter((line) => line !== '');
    } catch (error) {
      // Not there: this machine has no NVIDIA driver.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
        return {
          subject: 'devices',
          result: 'fail',
          found: `nvidia-smi fails: ${error instanceof Error ? error.message : String(error)}`,
          fix: 'the driver of the card does not work; see the node, or its device plugin',
        };
    }
    if (cards.length === 0)
      return {
        subject: 'devices',
        result: 'ok',
        found: 'no NVIDIA GPU here: this machine computes on the CPU',
      };
    return cuda
      ? { subject: 'devices', result: 'ok', found: `${cards.join('; ')}; ONNX Runtime has CUDA` }
      : {
          subject: 'devices',
          result: 'fail',
          found: `${cards.join('; ')}, and ONNX Runtime was installed without CUDA`,
          fix: 'use the CUDA image, or install with ONNXRUNTIME_NODE_INSTALL_CUDA unset',
        };
  });
}

/** API groups that Plumb can use, with the versions that it speaks, the best first. */
const groups = [
  { group: 'kueue.x-k8s.io', versions: ['v1beta2', 'v1beta1'], needed: 'queues for training jobs' },
  { group: 'trainer.kubeflow.org', versions: ['v1alpha1'], needed: 'the training backend kubeflow' },
  { group: 'keda.sh', versions: ['v1alpha1'], needed: 'scaling on the length of queues' },
  { group: 'plumb.dev', versions: ['v1alpha1'], needed: 'FeedbackRun objects' },
] as const;

/** The cluster: reached, which of the API groups it serves, its clock. */
export async function checkKubernetes({ kubernetes }: Deployment): Promise<readonly Finding[]> {
  const subject = 'kubernetes';
  if (kubernetes === undefined)
    return [{ subject, result: 'skip', found: 'not in a pod, and PLUMB_KUBECONFIG is not set' }];
  return await look(subject, 'see to the kubeconfig, or to the rights of the service account', async () => {
    const { openCluster, servedVersion } = await import('@plumb/kubernetes');
    const cluster = await openCluster({ ...kubernetes, deadlineMs: 10_000 });
    const findings: Finding[] = [];
    for (const { group, versions, needed } of groups) {
      const { version, served } = await servedVersion(cluster, group, versions);
      const about = `kubernetes: ${group}`;
      if (version !== undefined) findings.push({ subject: about, result: 'ok', found: version });
      else if (served.length === 0)
        findings.push({ subject: about, result: 'ok', found: `not installed; only needed for ${needed}` });
      else
        findings.push({
          subject: about,
          result: 'warn',
          found: `serves ${served.join(', ')}, and Plumb speaks ${versions.join(', ')}`,
          fix: `install a release that serves ${versions[0]} if you use ${needed}`,
        });
    }
    return [{ subject, result: 'ok', found: `reached; namespace ${cluster.namespace}` }, ...findings];
  });
}
