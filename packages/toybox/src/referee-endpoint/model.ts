/** The name by which the endpoint knows its only model. */
export const refereeModel = 'toybox-referee';

/** What the endpoint calls itself for people. */
export const refereeDescription = 'toybox-referee (rule-based stand-in)';
