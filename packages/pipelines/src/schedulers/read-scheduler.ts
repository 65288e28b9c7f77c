import { invalidArgument } from '@plumb/kit/errors';
import { z } from 'zod';
import { cogVideoXDdim, cogVideoXDpm, cogVideoXSchema } from './cogvideox.ts';
import { ddim, ddimSchema } from './ddim.ts';
import { ddpm, ddpmSchema } from './ddpm.ts';
import { dpmSolver, dpmSolverSchema } from './dpm-solver.ts';
import { flowEuler, flowEulerSchema } from './flow-euler.ts';
import type { Scheduler } from './scheduler.ts';
import { uniPc, uniPcSchema } from './unipc.ts';

/** A scheduler's schema and maker under one type. */
function entry<Schema extends z.ZodType>(
  schema: Schema,
  make: (kind: string, config: z.output<Schema>) => Scheduler,
): (kind: string, config: unknown) => Scheduler {
  return (kind, config) => make(kind, schema.parse(config));
}

const schedulers: ReadonlyMap<string, (kind: string, config: unknown) => Scheduler> = new Map([
  ['DDIMScheduler', entry(ddimSchema, ddim)],
  ['DDPMScheduler', entry(ddpmSchema, ddpm)],
  ['DPMSolverMultistepScheduler', entry(dpmSolverSchema, dpmSolver)],
  ['FlowMatchEulerDiscreteScheduler', entry(flowEulerSchema, flowEuler)],
  ['UniPCMultistepScheduler', entry(uniPcSchema, uniPc)],
  ['CogVideoXDDIMScheduler', entry(cogVideoXSchema, cogVideoXDdim)],
  ['CogVideoXDPMScheduler', entry(cogVideoXSchema, cogVideoXDpm)],
]);

/**
 * The scheduler of a scheduler_config.json. Fields that the class in diffusers does not have are ignored, as diffusers
 * does; options that it has and that are not supported here are refused.
 * @param file how to call the file in errors
 * @throws PlumbError INVALID_ARGUMENT naming the file and the field
 */
export function readScheduler(config: unknown, file: string): Scheduler {
  const named = z.looseObject({ _class_name: z.string() }).safeParse(config);
  if (!named.success) {
    throw invalidArgument(
      '_class_name',
      `is missing in ${file}; it names the class of the scheduler in diffusers`,
    );
  }
  const kind = named.data._class_name;
  const make = schedulers.get(kind);
  if (make === undefined) {
    throw invalidArgument(
      '_class_name',
      `is ${kind} in ${file}, a scheduler that is not supported; use one of ${[...schedulers.keys()].join(', ')}`,
    );
  }
  try {
    return make(kind, config);
  } catch (error) {
    if (!(error instanceof z.ZodError)) throw error;
    const [issue] = error.issues;
    throw invalidArgument(issue?.path.join('.') ?? '', `${issue?.message ?? ''} (${kind} of ${file})`, {
      cause: error,
    });
  }
}
