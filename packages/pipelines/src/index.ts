export { readScheduler } from './schedulers/read-scheduler.ts';
export type { Scheduler, ScheduleOptions, SchedulerRun } from './schedulers/scheduler.ts';
