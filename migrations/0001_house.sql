-- The whole house: projects, items, rounds, tasks, slots, labels, models, jobs, events, tokens.
-- Enumerations are text with CHECK, so that a new value is one line and a dump stays readable.

create table project (
    id uuid primary key,
    name text not null,
    state text not null check (state in
        ('empty', 'importing', 'ready', 'pretraining', 'labeling', 'training', 'scoring', 'finished')),
    paused boolean not null default false,
    -- The operator asked to end: the running batch is withdrawn, trained on what it has, then the project finishes.
    finish_requested boolean not null default false,
    settings jsonb not null,
    -- Last published downstream model; null before the first.
    model_version integer,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    -- Hidden at once, purged after seven days.
    deleted_at timestamptz
);
create unique index project_name on project (name) where deleted_at is null;

create table class (
    project uuid not null references project on delete cascade,
    index smallint not null check (index >= 0),
    name text not null,
    colour text,
    hotkey text,
    primary key (project, index),
    unique (project, name) deferrable initially deferred
);

create table import (
    id uuid primary key,
    project uuid not null references project on delete cascade,
    source text not null,
    -- True when the source is an upload in the blob store, removed once read.
    uploaded boolean not null default false,
    format text not null,
    split text not null check (split in ('auto', 'pool', 'test')),
    labels text not null check (labels in ('keep', 'hide')),
    state text not null default 'queued' check (state in ('queued', 'running', 'done', 'failed')),
    -- Entries of the source that are decided (added, duplicate or rejected); a resumed import skips as many.
    read_count bigint not null default 0,
    added_count bigint not null default 0,
    duplicate_count bigint not null default 0,
    rejected_count bigint not null default 0,
    converted_count bigint not null default 0,
    -- The first thousand rejections, [{name, reason}].
    rejected jsonb not null default '[]',
    error text,
    created_at timestamptz not null default now(),
    ended_at timestamptz
);
create index import_project on import (project, id);

-- One immutable file of packed images: tensor rows of u8 [size, size, channels] in the blob store beside the originals.
create table segment (
    id uuid primary key,
    project uuid not null references project on delete cascade,
    import uuid not null references import on delete cascade,
    -- 0, 1, … in the order of commits; orders nothing that must repeat.
    number integer not null,
    item_count integer not null check (item_count > 0),
    size integer not null,
    channels integer not null,
    created_at timestamptz not null default now(),
    unique (project, number)
);

create table item (
    id uuid primary key,
    project uuid not null references project on delete cascade,
    segment uuid not null references segment on delete cascade,
    -- Row of the item in its segment's tensor.
    segment_row integer not null,
    -- Where the original lies in its segment's pack.
    pack_offset bigint not null,
    pack_length integer not null,
    media_type text not null,
    name text not null,
    split text not null check (split in ('pool', 'test')),
    width integer not null,
    height integer not null,
    channels integer not null,
    content_hash bytea not null check (octet_length(content_hash) = 32),
    -- The class it is known to have: imported, or settled by votes.
    class smallint,
    class_source text check (class_source in ('import', 'votes')),
    excluded text check (excluded in ('broken', 'not_in_classes')),
    -- Skipped as unsure: not asked again before the round of this number.
    ask_from_round integer not null default 0,
    foreign key (project, class) references class (project, index),
    check ((class is null) = (class_source is null)),
    unique (segment, segment_row)
);
create unique index item_name on item (project, name);
create unique index item_content on item (project, content_hash);
create index item_project on item (project, id);
-- These two count a split, and its labelled part, without a look at the rows.
create index item_split on item (project, split) where excluded is null;
create index item_labeled on item (project, split, content_hash) where class is not null and excluded is null;

create table pretext_model (
    project uuid primary key references project on delete cascade,
    -- Key of the checkpoint in the blob store.
    checkpoint text not null,
    manifest jsonb not null,
    job uuid not null,
    created_at timestamptz not null default now()
);

create table model (
    project uuid not null references project on delete cascade,
    version integer not null check (version > 0),
    round integer not null,
    checkpoint text not null,
    manifest jsonb not null,
    -- Null without a test split.
    test_accuracy double precision,
    test_count integer not null default 0,
    label_count integer not null,
    -- Accepted votes paid for when it was trained.
    vote_count bigint not null,
    job uuid not null,
    created_at timestamptz not null default now(),
    primary key (project, version),
    unique (job)
);

create table round (
    id uuid primary key,
    project uuid not null references project on delete cascade,
    number integer not null check (number >= 0),
    state text not null check (state in ('labeling', 'training', 'scoring', 'closed')),
    strategy jsonb not null,
    -- The model that chose the batch; null for the seed batch.
    asked_by integer,
    -- The model that its labels trained.
    model_version integer,
    -- Items of the batch when it was opened; 0 for round 0.
    task_count integer not null,
    opened_at timestamptz not null default now(),
    closed_at timestamptz,
    unique (project, number)
);
-- At most one round of a project is under way.
create unique index round_under_way on round (project) where state <> 'closed';

create table task (
    id uuid primary key,
    project uuid not null references project on delete cascade,
    -- The round whose batch it counts into; a task asked ahead belongs to the round to come (number), which has no row yet.
    round_number integer not null,
    item uuid not null references item on delete cascade,
    -- 0 is asked first.
    rank integer not null,
    score double precision,
    uncertainty double precision,
    pretext_loss double precision,
    strategy text not null,
    -- The model that ranked it; null for the seed batch.
    model_version integer,
    source text not null check (source in ('query', 'random', 'gold', 'ahead', 'relabel', 'external')),
    state text not null default 'open' check (state in ('open', 'leased', 'settled', 'skipped', 'withdrawn', 'adjudication')),
    -- The guess stored when it was scored, [{class, probability}] with class as an index, best first.
    suggestions jsonb not null default '[]',
    created_at timestamptz not null default now(),
    closed_at timestamptz
);
create index task_round on task (project, round_number, rank);
create index task_item on task (item);
-- The supervisor looks for ties each second.
create index task_tied on task (project) where state = 'adjudication';
-- An item is asked once at a time; skipped and withdrawn tasks don't count.
create unique index task_item_asked on task (item)
    where state in ('open', 'leased', 'settled', 'adjudication') and source in ('query', 'random', 'ahead');

create table token (
    id uuid primary key,
    role text not null check (role in ('labeler', 'tool', 'operator', 'admin')),
    name text not null,
    -- SHA-256 of the token; tokens have 256 random bits, so no slow hash is needed.
    hash bytea not null unique check (octet_length(hash) = 32),
    -- Projects it may touch; null for all.
    projects uuid[],
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

create table slot (
    id uuid primary key,
    task uuid not null references task on delete cascade,
    project uuid not null references project on delete cascade,
    round_number integer not null,
    state text not null default 'open' check (state in ('open', 'leased', 'answered', 'skipped', 'withdrawn')),
    -- Smaller is leased first: the round's number, then the task's rank, then the vote.
    priority bigint not null,
    -- The token that holds or answered it; the person's name when a tool labels for several.
    labeler uuid references token,
    person text,
    -- Those who held it before, so that a label of theirs that comes too late is told from a stranger's.
    former uuid[] not null default '{}',
    attempt integer not null default 0,
    expires_at timestamptz
);
create index slot_open on slot (project, priority) where state = 'open';
create index slot_task on slot (task);
create index slot_unclosed on slot (project, round_number) where state in ('open', 'leased');
create index slot_leased on slot (labeler, project) where state = 'leased';
create index slot_expiry on slot (expires_at) where state = 'leased';

create table label (
    id uuid primary key,
    project uuid not null references project on delete cascade,
    task uuid not null references task on delete cascade,
    slot uuid references slot on delete cascade,
    item uuid not null references item on delete cascade,
    round_number integer not null,
    class smallint not null,
    labeler uuid not null references token,
    person text,
    attempt integer,
    seconds double precision check (seconds >= 0),
    -- False for a late vote that is kept but not paid.
    counted boolean not null,
    created_at timestamptz not null default now(),
    -- The class before the last correction, and when that was.
    corrected_from smallint,
    corrected_at timestamptz,
    undone_at timestamptz,
    foreign key (project, class) references class (project, index)
);
create index label_project on label (project, id);
create index label_task on label (task);
create index label_item on label (item);
create index label_labeler on label (labeler, created_at);
create index label_paid on label (project) where counted and undone_at is null;
-- One live vote a slot.
create unique index label_slot on label (slot) where undone_at is null and slot is not null;
-- For the purge of a project, whose cascade looks for the labels and skips of each slot.
create index label_of_slot on label (slot);

create table skip (
    id uuid primary key,
    project uuid not null references project on delete cascade,
    task uuid not null references task on delete cascade,
    slot uuid not null references slot on delete cascade,
    labeler uuid not null references token,
    person text,
    reason text not null check (reason in ('unsure', 'broken', 'not_in_classes')),
    created_at timestamptz not null default now()
);
create index skip_task on skip (task);
create index skip_slot on skip (slot);

create table idempotency (
    token uuid not null references token on delete cascade,
    method text not null,
    path text not null,
    key text not null,
    -- SHA-256 of the request's body.
    body_hash bytea not null,
    status smallint,
    answer jsonb,
    created_at timestamptz not null default now(),
    primary key (token, method, path, key)
);
create index idempotency_age on idempotency (created_at);

create table job (
    id uuid primary key,
    project uuid not null references project on delete cascade,
    kind text not null check (kind in ('import', 'pretrain', 'embed', 'pretext_loss', 'train', 'score', 'select')),
    -- What tells this job from others of its kind in the project, so that none is queued twice: an import's id, a round, a shard.
    subject text not null,
    state text not null default 'queued' check (state in ('queued', 'running', 'done', 'failed', 'cancelled')),
    -- Frozen input.
    request jsonb not null,
    -- Output, written with state 'done'.
    outcome jsonb,
    -- Key of the last checkpoint in the middle of the work.
    checkpoint text,
    attempt integer not null default 0,
    worker text,
    expires_at timestamptz,
    done_count bigint not null default 0,
    total_count bigint not null default 0,
    error text,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    ended_at timestamptz,
    unique (project, kind, subject)
);
create index job_queue on job (created_at) where state = 'queued';
create index job_running on job (expires_at) where state = 'running';
create index job_project on job (project, state);

create table event (
    id uuid primary key,
    -- Given by the relay after the commit, without gaps; null until then.
    number bigint unique,
    project uuid,
    kind text not null,
    payload jsonb not null,
    created_at timestamptz not null default now()
);
create index event_unnumbered on event (created_at, id) where number is null;
create index event_project on event (project, number);
