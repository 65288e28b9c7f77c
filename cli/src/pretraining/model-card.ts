import { categories } from '@plumb/toybox';
import type { Acceptance } from './acceptance.ts';
import type { MixturePhase } from './recipe.ts';

/** What the card of a pretrained model says. */
export interface ModelCard {
  readonly version: string;
  readonly sha256: string;
  readonly parameters: number;
  readonly seed: string;
  readonly steps: number;
  readonly batchSize: number;
  readonly mixture: readonly MixturePhase[];
  readonly finalLoss: number;
  readonly trainingSeconds: number;
  readonly sampler: { readonly steps: number; readonly guidance: number; readonly shift: number };
  /** By guidance. */
  readonly acceptance: readonly { readonly guidance: number; readonly result: Acceptance }[];
}

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;

function describeMixture(mixture: readonly MixturePhase[]): string {
  return mixture
    .map(({ fromStep, wrongShare, categoryWeights }) => {
      const weights = Object.entries(categoryWeights).map(
        ([category, weight]) => `${category} ${weight} times as often`,
      );
      return `from step ${fromStep}, ${[`${percent(wrongShare)} do not do what their caption says`, ...weights].join(', ')}`;
    })
    .join('; ');
}

/** The card as Markdown. */
export function renderModelCard(card: ModelCard): string {
  const rows = card.acceptance.map(({ guidance, result }) => {
    const cells = categories.map((category) => percent(result.perCategory[category]?.value ?? Number.NaN));
    const { value, lower, upper } = result.overall;
    return `| ${guidance} | ${percent(value)} [${percent(lower)}, ${percent(upper)}] | ${cells.join(' | ')} | ${percent(result.picture)} |`;
  });
  return `# Model card: ${card.version}

A video diffusion transformer (DiT) of ${card.parameters.toLocaleString('en')} weights that draws toybox clips: 8 frames of 24x24 RGB.
It was pretrained on deliberately noisy clips and so does what its caption says about half of the time: it is the model
that feedback has to improve, not a good one.

| | |
|---|---|
| file | \`model.safetensors\`, SHA-256 \`${card.sha256}\` |
| data | ${(card.steps * card.batchSize).toLocaleString('en')} clips rendered on the fly, each seen once; ${describeMixture(card.mixture)} |
| captions | every sentence of the toybox's grammar except the 40 held-out prompts |
| training | ${card.steps.toLocaleString('en')} steps of ${card.batchSize} clips, seed \`${card.seed}\`, ${(card.trainingSeconds / 60).toFixed(0)} minutes on 2 cores |
| final training loss | ${card.finalLoss.toFixed(4)} (mean squared error of the velocity, last 100 steps) |
| sampler | ${card.sampler.steps} Euler steps, shift ${card.sampler.shift} |
| made by | \`./plumb pretrain\`; settings and hashes in \`manifest.json\` |

Acceptance on the 40 held-out prompts (${card.acceptance[0]?.result.samples ?? 0} clips), by the toybox's referee, a rule-based stand-in for a
vision-language model, with 95% intervals that respect prompts; \`picture\` is the share of clips that pass its picture checks:

| guidance | overall | ${categories.join(' | ')} | picture |
|---|---|${categories.map(() => '---').join('|')}|---|
${rows.join('\n')}

**Intended use**: the default of \`plumb demo\`, of tests and of studies. **Not for** anything outside of the toybox.
`;
}
