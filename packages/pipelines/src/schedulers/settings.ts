import { z } from 'zod';

/** Schedules of betas that every scheduler but DDPM knows. */
export const commonSchedules = z.enum(['linear', 'scaled_linear', 'squaredcos_cap_v2']);

/** Fields that all schedulers over betas have, with diffusers' defaults. */
export const betaFields = {
  num_train_timesteps: z.int().min(1).max(100_000).default(1000),
  beta_start: z.number().default(0.0001),
  beta_end: z.number().default(0.02),
  beta_schedule: commonSchedules.default('linear'),
  trained_betas: z.array(z.number()).min(1).nullish(),
};

/** An option of diffusers that is not supported: only its neutral value is accepted. */
export function only<const T extends string | number | boolean | null>(
  value: T,
): z.ZodDefault<z.ZodNullable<z.ZodLiteral<T>>> {
  return z
    .literal(value, {
      error: ({ input }) => `is ${JSON.stringify(input)}, which is not supported; only ${value} is`,
    })
    .nullable()
    .default(value as never);
}
