-- Annotations of Label Studio: kept as they come, before they are answered, and turned into labels after that.

create table label_studio_annotation (
    project uuid not null references project on delete cascade,
    -- The token that brought it, which stands for one Label Studio and labels in gleaner's books.
    source uuid not null references token on delete cascade,
    -- Its project's and its own number there.
    ls_project bigint not null,
    annotation bigint not null,
    -- The same in webhooks and exports; unknown of one that was deleted before it was heard of.
    unique_id uuid,
    -- The newest state that was heard of, and when it came to be by Label Studio's clock.
    wanted text not null check (wanted in ('class', 'skip', 'nothing', 'deleted')),
    class text,
    changed_at timestamptz not null,
    -- The item its task shows; null when the project has none such.
    item uuid references item on delete cascade,
    person text,
    seconds double precision check (seconds >= 0),
    -- Whether gleaner has acted on that state, and what came of it.
    state text not null default 'pending' check (state in ('pending', 'done')),
    outcome text,
    next_attempt_at timestamptz not null default now(),
    -- The label it became.
    label uuid references label on delete cascade,
    received_at timestamptz not null default now(),
    handled_at timestamptz,
    primary key (project, source, ls_project, annotation),
    check ((wanted = 'class') = (class is not null))
);
create index label_studio_annotation_pending on label_studio_annotation (next_attempt_at) where state = 'pending';
create index label_studio_annotation_unique on label_studio_annotation (project, unique_id);
-- For the purge of a project, whose cascade looks for the annotations of each item and label.
create index label_studio_annotation_item on label_studio_annotation (item);
create index label_studio_annotation_label on label_studio_annotation (label);
