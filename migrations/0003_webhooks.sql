-- Webhooks: where events are sent, and the outbox of what is being sent.

create table webhook (
    id uuid primary key,
    -- Who made it; a webhook sends nothing once its owner's token has ended.
    token uuid not null references token on delete cascade,
    url text not null,
    -- Sealed under the key of this fingerprint; servers with another key leave it alone.
    secret bytea not null,
    sealed_by text not null,
    -- Kinds and projects of the events it wants; null for all.
    kinds text[],
    projects uuid[],
    -- Every event up to this number is in the outbox or doesn't concern it.
    cursor bigint not null,
    -- Failed attempts since the last success, and when the next one is due.
    failure_count integer not null default 0,
    next_attempt_at timestamptz not null default now(),
    last_error text,
    last_success_at timestamptz,
    -- Sends nothing but tests since then, and why.
    disabled_at timestamptz,
    disabled_reason text check (disabled_reason in ('operator', 'given_up', 'gone')),
    -- The server that sends for it now; a stopped server's lease ends by itself.
    lease uuid,
    leased_until timestamptz,
    created_at timestamptz not null default now(),
    check ((disabled_at is null) = (disabled_reason is null))
);
create index webhook_token on webhook (token, id);

-- The outbox of each webhook, and what became of it. Sent in the order of event numbers.
create table webhook_delivery (
    id uuid primary key,
    webhook uuid not null references webhook on delete cascade,
    -- Null for a test.
    event_number bigint references event (number),
    origin text not null check (origin in ('event', 'redelivery', 'test')),
    state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    attempt_count integer not null default 0,
    -- The receiver's answer to the last attempt; null when there was none.
    status integer,
    error text,
    duration_ms integer,
    created_at timestamptz not null default now(),
    attempted_at timestamptz,
    check ((event_number is null) = (origin = 'test'))
);
create index webhook_delivery_pending on webhook_delivery (webhook, event_number nulls first, id) where state = 'pending';
create index webhook_delivery_webhook on webhook_delivery (webhook, id);
create index webhook_delivery_age on webhook_delivery (created_at) where state <> 'pending';
