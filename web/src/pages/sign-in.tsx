import { useState, type FormEvent } from 'react';
import Box from '@cloudscape-design/components/box';
import Button from '@cloudscape-design/components/button';
import Container from '@cloudscape-design/components/container';
import Form from '@cloudscape-design/components/form';
import FormField from '@cloudscape-design/components/form-field';
import Header from '@cloudscape-design/components/header';
import Input from '@cloudscape-design/components/input';
import SpaceBetween from '@cloudscape-design/components/space-between';
import { useMutation } from '@tanstack/react-query';
import { post } from '../api';
import { Failure } from '../parts/common';

export function SignIn({ onDone }: { onDone: () => void }) {
  const [name, setName] = useState('');
  const [password, setPassword] = useState('');
  const enter = useMutation({ mutationFn: () => post('/v1/sessions', { name, password }), onSuccess: onDone });
  const submit = (event: FormEvent) => { event.preventDefault(); if (!enter.isPending) enter.mutate(); };

  return (
    <main className="sign-in">
      <form onSubmit={submit}>
        <Container header={<Header variant="h1" description="The cloud migration factory">Sign in to Slipway</Header>}>
          <Form actions={<Button variant="primary" formAction="submit" loading={enter.isPending} disabled={!name || !password}>Sign in</Button>}>
            <SpaceBetween size="m">
              {enter.error ? <Failure error={enter.error} what="Not signed in" /> : null}
              <FormField label="Name"><Input value={name} autoFocus autoComplete="username" onChange={event => setName(event.detail.value)} /></FormField>
              <FormField label="Password"><Input type="password" value={password} autoComplete="current-password" onChange={event => setPassword(event.detail.value)} /></FormField>
              <Box variant="small">The first login was printed by <code>slipway serve</code> when it first started.</Box>
            </SpaceBetween>
          </Form>
        </Container>
      </form>
    </main>
  );
}
