import { useState, type ReactNode } from 'react';
import Alert from '@cloudscape-design/components/alert';
import Box from '@cloudscape-design/components/box';
import Button from '@cloudscape-design/components/button';
import FormField from '@cloudscape-design/components/form-field';
import Input from '@cloudscape-design/components/input';
import Modal from '@cloudscape-design/components/modal';
import SpaceBetween from '@cloudscape-design/components/space-between';
import StatusIndicator from '@cloudscape-design/components/status-indicator';
import { useMutation, useQueryClient } from '@tanstack/react-query';
import { Problem } from '../api';
import { statusType, words } from '../format';

export const Status = ({ state }: { state: string }) => <StatusIndicator type={statusType(state)}>{words(state)}</StatusIndicator>;

export function Failure({ error, what }: { error: unknown; what: string }) {
  const problem = error instanceof Problem ? error : null;
  return <Alert type="error" header={what}>{problem ? problem.message : String(error)}</Alert>;
}

export const Empty = ({ children }: { children: ReactNode }) => <Box textAlign="center" color="text-body-secondary" padding="l">{children}</Box>;

interface ActProps {
  label: string;               // the button's words, a verb
  title: string;               // the question
  children: ReactNode;         // what will happen, what can't be undone
  act: (typed: string) => Promise<unknown>;
  variant?: 'primary' | 'normal';
  disabled?: boolean;
  note?: string;               // asks for a line of text under this name
  words?: string;              // must be typed to go on
}

/** What has come of an action that did not succeed. Where nobody answered, it may have been done. */
const failed = (error: unknown) => (error instanceof Problem && error.status >= 400 && error.status < 500 ? 'The factory refused'
  : error instanceof Problem && error.status >= 500 ? 'The factory failed' : 'It is not known whether it was done');

/** A button that asks before it acts, shows the refusal where there is one, and never closes on a failure. What is on its way can't be called back, so there is
 * no leaving before its end is known. Give it a key where another Act may take its place: an open question must not become another one. */
export function Act({ label, title, children, act, variant = 'normal', disabled, note, words: required }: ActProps) {
  const [open, setOpen] = useState(false);
  const [typed, setTyped] = useState('');
  const client = useQueryClient();
  const run = useMutation({ mutationFn: () => act(typed), onSuccess: () => { shut(); void client.invalidateQueries(); } });
  const shut = () => { setOpen(false); setTyped(''); run.reset(); };
  const close = () => { if (!run.isPending) shut(); };
  // A refusal that names words to repeat ("lose 12 minutes of db01") turns the question into one that asks for them.
  const asked = required ?? (run.error instanceof Problem ? /repeat[^"“]*["“]([^"”]+)["”]/.exec(run.error.message)?.[1] : undefined);
  const field = asked ? `Type “${asked}” to go on` : note;

  return (
    <>
      <Button variant={variant} disabled={disabled ?? false} onClick={() => setOpen(true)}>{label}</Button>
      <Modal visible={open} onDismiss={close} header={title} closeAriaLabel="Close"
        footer={<Box float="right"><SpaceBetween direction="horizontal" size="xs">
          <Button variant="link" disabled={run.isPending} onClick={close}>Cancel</Button>
          <Button variant="primary" loading={run.isPending} disabled={Boolean(asked) && typed !== asked} onClick={() => run.mutate()}>{label}</Button>
        </SpaceBetween></Box>}>
        <SpaceBetween size="m">
          <Box>{children}</Box>
          {run.error ? <Failure error={run.error} what={failed(run.error)} /> : null}
          {field ? <FormField label={field}><Input value={typed} onChange={event => setTyped(event.detail.value)} ariaLabel={field} /></FormField> : null}
        </SpaceBetween>
      </Modal>
    </>
  );
}
