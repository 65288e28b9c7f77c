import { readFile } from 'node:fs/promises';
import { createAdmission, createSpending, endpointSchema, openKeyValueAccounts } from '@plumb/endpoint';
import type { Bus } from '@plumb/kit/bus';
import { describeError, invalidArgument } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import type { Logger } from '@plumb/kit/telemetry';
import type { RemoteEndpoint, RemoteEvents } from '@plumb/pipelines';
import { parse } from 'yaml';
import { z } from 'zod';

/** Accounts of runs: replicas share a budget, and a restart forgets nothing. */
const bucket = 'plumb_generation_accounts';

const fileSchema = z.strictObject({
  /** What a run may spend on clips, in the currency of the models' prices. Absent: no limit. */
  budget: z.strictObject({ cost: z.number().min(0).optional() }).default({}),
  endpoints: z.record(z.string().regex(/^[a-z][a-z0-9-]*$/), endpointSchema),
});

/** What is counted of endpoints. */
export interface EndpointMetrics extends RemoteEvents {
  /** False while the circuit breaker is open. */
  endpointUp(endpoint: string, up: boolean): void;
}

/** Endpoints by name. */
export type RemoteEndpoints = ReadonlyMap<string, RemoteEndpoint>;

/**
 * Reads the endpoints that remote models may be asked through. Keys are read from the variables that the file names.
 *
 * @throws PlumbError INVALID_ARGUMENT, reason CONFIGURATION_INVALID, naming the file, the setting and the fix
 */
export async function remoteEndpoints(
  path: string | undefined,
  bus: Bus,
  env: Readonly<Record<string, string | undefined>>,
  logger: Logger,
  metrics: EndpointMetrics,
): Promise<RemoteEndpoints> {
  if (path === undefined) return new Map();
  let document: unknown;
  try {
    document = parse(await readFile(path, 'utf8'));
  } catch (error) {
    throw wrong(`${path}, named by PLUMB_REMOTE_ENDPOINTS, cannot be read: ${describeError(error)}`);
  }
  const parsed = fileSchema.safeParse(document);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw wrong(`${path}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`);
  }
  const { budget, endpoints } = parsed.data;
  const spending = createSpending(
    await openKeyValueAccounts(bus, bucket),
    {
      name: 'generation',
      fix: `raise budget.cost in ${path} and start the generators anew`,
      reason: 'BUDGET_EXHAUSTED',
    },
    budget,
    (error) => logger.warn({ error }, 'the accounts of runs cannot be written and will be tried again'),
  );
  return new Map(
    Object.entries(endpoints).map(([name, settings]): [string, RemoteEndpoint] => {
      const variable = settings.apiKeyVariable;
      const apiKey = variable === undefined ? undefined : env[variable];
      if (variable !== undefined && (apiKey === undefined || apiKey === '')) {
        throw wrong(
          `${variable} is not set; endpoints.${name}.apiKeyVariable in ${path} says that it holds the API key`,
        );
      }
      const admission = createAdmission(name, settings, 'REMOTE_ERROR', (state) => {
        metrics.endpointUp(name, state !== 'down');
        logger.info({ endpoint: name, state }, 'the state of an endpoint has changed');
      });
      metrics.endpointUp(name, true);
      return [name, { name, settings, apiKey, admission, spending, events: metrics }];
    }),
  );
}

function wrong(description: string): PlumbError {
  return invalidArgument('PLUMB_REMOTE_ENDPOINTS', description, { reason: 'CONFIGURATION_INVALID' });
}
