export {
  categoryIds,
  firstPrompts,
  loadPromptSet,
  parsePromptSet,
  promptSetLimits,
  promptSetSchema,
} from './prompt-set.ts';
export type { CategoryId, Prompt, PromptSet, PromptSplit } from './prompt-set.ts';
export { checkPrompts } from './check-prompts.ts';
export type { CheckPromptsOptions, PromptFinding } from './check-prompts.ts';
