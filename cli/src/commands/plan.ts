import { Command } from 'commander';
import type { PlanInput } from '../planning/plan-iteration.ts';

/** `plumb plan`: what an iteration takes. */
export function planCommand(finish: (exitCode: number) => void): Command {
  return new Command('plan')
    .description('compute what an iteration takes: GPUs, pods, requests, tokens, money and hours')
    .option(
      '--spec <file>',
      'take prompts, samples, sampler and training from a run spec; flags go before it',
    )
    .option(
      '--model <name>',
      'toybox, wan-2.1-1.3b, wan-2.1-14b, cogvideox-2b or cogvideox-5b (default: "toybox")',
    )
    .option('--prompts <count>', 'prompts to train on (default: 120)', Number)
    .option('--samples-per-prompt <count>', 'clips of each (default: 128)', Number)
    .option('--heldout-prompts <count>', 'held-out prompts (default: 40)', Number)
    .option('--heldout-samples <count>', 'clips of each held-out prompt and model (default: 8)', Number)
    .option('--sampler-steps <count>', 'denoising steps (default: 50, toybox 20)', Number)
    .option('--frames <count>', "frames of a clip (default: the model's)", Number)
    .option('--card <name>', 'GPU of the computed models', 'H100')
    .option('--generators <count>', 'generators, each with a GPU', Number, 1)
    .option('--seconds-per-clip <seconds>', 'what you measured for one generator', Number)
    .option('--steps <count>', 'training steps (default: 250)', Number)
    .option('--batch-size <count>', 'clips a training step (default: 32)', Number)
    .option('--rank <rank>', 'rank of the adapters', Number, 32)
    .option('--seconds-per-step <seconds>', 'what you measured for a training step', Number)
    .option('--judge-latency <seconds>', 'time of a call to the judge', Number, 2)
    .option('--votes <count>', 'verdicts of a clip', Number, 1)
    .option('--input-tokens <count>', 'tokens of a question with its pictures', Number, 1500)
    .option('--output-tokens <count>', 'tokens of an answer', Number, 60)
    .option('--input-price <money>', 'for a million tokens', Number, 0)
    .option('--output-price <money>', 'for a million tokens', Number, 0)
    .option('--judge-concurrency <count>', 'calls in flight at most', Number, 64)
    .option('--judge-rpm <count>', 'requests a minute that the endpoint allows', Number)
    .option('--card-price <money>', 'of a GPU for an hour', Number, 0)
    .option('--json', 'print it as one JSON object')
    .addHelpText(
      'after',
      '\nExample: ./plumb plan --model wan-2.1-1.3b --generators 8 --card-price 2.5 --input-price 0.4 --output-price 1.6',
    )
    .action(async (options: PlanOptions) => {
      const { planIteration } = await import('../planning/plan-iteration.ts');
      const { planText } = await import('../planning/plan-text.ts');
      const { specFigures } = await import('../planning/spec-figures.ts');
      const input = planInput(options, options.spec === undefined ? {} : await specFigures(options.spec));
      const plan = planIteration(input);
      process.stdout.write(
        `${options.json === true ? JSON.stringify({ input, plan }) : planText(input, plan)}\n`,
      );
      finish(0);
    });
}

/** Options as commander gives them. */
interface PlanOptions {
  readonly spec?: string;
  readonly model?: string;
  readonly prompts?: number;
  readonly samplesPerPrompt?: number;
  readonly heldoutPrompts?: number;
  readonly heldoutSamples?: number;
  readonly samplerSteps?: number;
  readonly frames?: number;
  readonly card: string;
  readonly generators: number;
  readonly secondsPerClip?: number;
  readonly steps?: number;
  readonly batchSize?: number;
  readonly rank: number;
  readonly secondsPerStep?: number;
  readonly judgeLatency: number;
  readonly votes: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly inputPrice: number;
  readonly outputPrice: number;
  readonly judgeConcurrency: number;
  readonly judgeRpm?: number;
  readonly cardPrice: number;
  readonly json?: true;
}

function planInput(options: PlanOptions, spec: Partial<PlanInput>): PlanInput {
  const model = options.model ?? 'toybox';
  return {
    model,
    prompts: options.prompts ?? spec.prompts ?? 120,
    samplesPerPrompt: options.samplesPerPrompt ?? spec.samplesPerPrompt ?? 128,
    heldOutPrompts: options.heldoutPrompts ?? spec.heldOutPrompts ?? 40,
    heldOutSamples: options.heldoutSamples ?? spec.heldOutSamples ?? 8,
    card: options.card,
    generators: options.generators,
    samplingSteps: options.samplerSteps ?? spec.samplingSteps ?? (model === 'toybox' ? 20 : 50),
    frames: options.frames,
    secondsPerClip: options.secondsPerClip,
    trainingSteps: options.steps ?? spec.trainingSteps ?? 250,
    batchSize: options.batchSize ?? spec.batchSize ?? 32,
    loraRank: options.rank,
    secondsPerStep: options.secondsPerStep,
    judge: {
      latency: options.judgeLatency,
      votes: options.votes,
      inputTokens: options.inputTokens,
      outputTokens: options.outputTokens,
      inputPrice: options.inputPrice,
      outputPrice: options.outputPrice,
      concurrency: options.judgeConcurrency,
      requestsPerMinute: options.judgeRpm,
    },
    cardPrice: options.cardPrice,
  };
}
