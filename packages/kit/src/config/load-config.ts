import { z } from 'zod';
import { PlumbError } from '../errors/plumb-error.ts';
import type { FieldViolation } from '../errors/error-fields.ts';

/** The environment as Node gives it. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** The environment variable of a setting: `natsUrl` is PLUMB_NATS_URL. */
export function variableName(key: string): string {
  return `PLUMB_${key.replaceAll(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase()}`;
}

const secretName = /KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL|DATABASE_URL/;

/**
 * Reads the settings of a service from the environment. The schema's keys are camelCase; each is read from its variable
 * (`variableName`). An empty variable counts as not set. Give each setting `.describe(...)` with an example: it is the
 * fix in the error. Cross-field checks are refinements of the object (`.refine`, `.check`).
 *
 * @throws PlumbError INVALID_ARGUMENT, reason CONFIGURATION_INVALID, one line that lists every bad variable with its fix
 */
export function loadConfig<Shape extends z.ZodRawShape>(
  schema: z.ZodObject<Shape>,
  env: Environment = process.env,
): z.output<z.ZodObject<Shape>> {
  const input: Record<string, string> = {};
  for (const key of Object.keys(schema.shape)) {
    const value = env[variableName(key)];
    if (value !== undefined && value !== '') input[key] = value;
  }
  const result = schema.safeParse(input);
  if (result.success) return result.data;

  const fieldViolations = result.error.issues.map((issue): FieldViolation => {
    const key = issue.path[0];
    if (typeof key !== 'string') return { field: '(settings)', description: issue.message };
    const field = variableName(key);
    const setting: unknown = schema.shape[key];
    const hint = setting instanceof z.ZodType ? setting.description : undefined;
    const value = input[key];
    let found = 'is missing';
    if (value !== undefined) found = secretName.test(field) ? 'has a bad value' : `is '${value}'`;
    const problem = value === undefined ? '' : ` (${issue.message})`;
    return { field, description: `${found}${problem}; set it to ${hint ?? 'a valid value'}` };
  });
  throw new PlumbError({
    code: 'INVALID_ARGUMENT',
    reason: 'CONFIGURATION_INVALID',
    message: fieldViolations.map(({ field, description }) => `${field} ${description}`).join('; '),
    fieldViolations,
  });
}
