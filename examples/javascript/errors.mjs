/** What whoever runs a host can mend, said in one sentence; other errors are mistakes of the program. */
export class HostError extends Error {}
