import { resolve } from 'node:path';
import { Command } from 'commander';

/** Exit code of a check that found something. */
const findingsExitCode = 4;

/** `plumb prompts`: prompt sets. */
export function promptsCommand(finish: (exitCode: number) => void): Command {
  const prompts = new Command('prompts').description('check prompt sets');
  prompts.addCommand(
    new Command('check')
      .description(
        'find duplicates, leaks between the splits, unbalanced categories and texts that are too long',
      )
      .argument('<file>', 'prompt set in JSON; docs/prompts.md explains it')
      .option('--json', 'print it as one JSON object')
      .option(
        '--likeness <share>',
        'share of words and word pairs in common from which two texts count as nearly the same',
        Number,
        0.85,
      )
      .addHelpText('after', '\nExit code 0 when there is nothing to say, 4 when there is.')
      .action(async (file: string, options: { json?: true; likeness: number }) => {
        const { checkPrompts, loadPromptSet } = await import('@plumb/prompts');
        const set = await loadPromptSet(resolve(file));
        const findings = checkPrompts(set, { likeness: options.likeness });
        const splits = ['train', 'heldout'] as const;
        const counts = Object.fromEntries(
          splits.map((split) => [split, set.prompts.filter((prompt) => prompt.split === split).length]),
        );
        const text = [
          ...findings.map(({ kind, message }) => `${kind}: ${message}`),
          `${set.prompts.length} prompts (${counts['train']} to train on, ${counts['heldout']} held out) in ${set.categories.length} categories, ` +
            `sha256 ${set.sha256}: ${findings.length === 0 ? 'nothing to say' : `${findings.length} findings`}`,
        ].join('\n');
        process.stdout.write(
          `${options.json === true ? JSON.stringify({ sha256: set.sha256, ...counts, findings }) : text}\n`,
        );
        finish(findings.length === 0 ? 0 : findingsExitCode);
      }),
  );
  return prompts;
}
