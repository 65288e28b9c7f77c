/** What can be wrong with a prompt. */

import type { FieldViolation } from '@plumb/kit/errors';
import type { Prompt } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';

/** Longest prompt, in characters (prompt.proto). */
const longestPrompt = 2000;

/** Everything that is wrong with a prompt; `field` is its path in the request. */
export function promptViolations(prompt: Prompt | undefined, field: string): FieldViolation[] {
  const text = prompt?.text ?? '';
  if (text.trim() === '') {
    return [{ field: `${field}.text`, description: 'is missing; say what the clip shall show' }];
  }
  if (text.length > longestPrompt) {
    return [
      {
        field: `${field}.text`,
        description: `has ${text.length} characters; at most ${longestPrompt} are allowed`,
      },
    ];
  }
  return [];
}
