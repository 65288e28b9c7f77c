import { discreteNoise, flowNoise } from '@plumb/diffusion';
import type { NetworkDenoiser } from '@plumb/diffusion';
import { invalidArgument } from '@plumb/kit/errors';
import { importOnnx } from '@plumb/tensor-graph/onnx-import';
import type { PipelineFolder } from './pipeline-folder.ts';

/** Rows that a pipeline's denoiser was exported for; undefined where they are free. */
export function rowsOfDenoiser({ denoiser }: PipelineFolder): number | undefined {
  const rows = denoiser.inputs.find(({ name }) => name === 'hidden_states')?.shape[0] ?? -1;
  return rows === -1 ? undefined : rows;
}

/**
 * A pipeline's denoiser as training takes it, with layers called as in diffusers and the noise that its scheduler says it
 * was trained on.
 * @param rows that share a pass; those of the export where it has a fixed number
 * @throws PlumbError as `importOnnx`; INVALID_ARGUMENT for a denoiser that predicts something that training does not know
 */
export async function pipelineDenoiser(folder: PipelineFolder, rows: number): Promise<NetworkDenoiser> {
  const { plan, scheduler, settings, textEncoder, denoiser, architecture } = folder;
  const { maskInput } = plan.text;
  const tokens = settings.maxTextTokens;
  const width = textEncoder.output.shape.at(-1) ?? 0;
  const constants = plan.constants(rows);
  const network = await importOnnx(denoiser.path, {
    shapes: {
      hidden_states: [rows, ...plan.latents],
      timestep: [rows],
      encoder_hidden_states: [rows, tokens, width],
      ...(maskInput === undefined ? {} : { [maskInput]: [rows, tokens] }),
      ...Object.fromEntries(Object.entries(constants).map(([name, { shape }]) => [name, shape])),
    },
    // Exporters wrap the model so that its inputs have names.
    rootModule: architecture.denoiser,
  });
  return {
    name: settings.name,
    network,
    inputs: {
      latents: 'hidden_states',
      timestep: 'timestep',
      text: 'encoder_hidden_states',
      ...(maskInput === undefined ? {} : { textMask: maskInput }),
    },
    constants,
    ...noiseOf(folder, scheduler),
  };
}

function noiseOf(
  { path }: PipelineFolder,
  { kind, trainingNoise }: PipelineFolder['scheduler'],
): Pick<NetworkDenoiser, 'parameterisation' | 'noiseLevel'> {
  if (trainingNoise.kind === 'flow') {
    return { parameterisation: 'flow', noiseLevel: flowNoise(trainingNoise.timesteps) };
  }
  const { predicts, alphaBars } = trainingNoise;
  if (predicts !== 'epsilon' && predicts !== 'v_prediction') {
    throw invalidArgument(
      'prediction_type',
      `is ${predicts} in the scheduler (${kind}) of ${path}; models that predict epsilon, v_prediction or a flow can be trained`,
    );
  }
  return {
    parameterisation: predicts === 'epsilon' ? 'epsilon' : 'v',
    noiseLevel: discreteNoise(alphaBars),
  };
}
