export { categoryIds, loadPromptSet, parsePromptSet, promptSetLimits } from './prompt-set.ts';
export type { CategoryId, Prompt, PromptSet, PromptSplit } from './prompt-set.ts';
