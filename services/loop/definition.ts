/** Prints the CustomResourceDefinition of FeedbackRun: node services/loop/definition.ts > charts/plumb/crds/feedbackruns.yaml */
import { stringify } from 'yaml';
import { feedbackRunDefinition } from './domain/feedback-run-definition.ts';

process.stdout.write(stringify(feedbackRunDefinition(), { lineWidth: 0, aliasDuplicateObjects: false }));
