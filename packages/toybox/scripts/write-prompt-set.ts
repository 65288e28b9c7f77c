/**
 * Writes prompts/toybox.json from the captions and the fixed split in src/prompt-split.ts. Run it after a change there,
 * and raise the version.
 */
import { writeFile } from 'node:fs/promises';
import { promptSetJson } from '../src/prompt-split.ts';

await writeFile(new URL('../../../prompts/toybox.json', import.meta.url), promptSetJson());
