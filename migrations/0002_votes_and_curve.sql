-- Votes that are set aside, blind tasks whose answer is known, the honest curve, and why a project ended.

alter table project add column finish_reason text
    check (finish_reason in ('budget', 'pool', 'target', 'plateau', 'operator'));

alter table round
    -- What the batch was chosen from: items that could be asked, and all items of the pool. Null for rounds of before.
    add column askable_count bigint,
    add column pool_count bigint;

alter table task
    -- The class that a gold or relabel item had when it was asked.
    add column known_class smallint,
    -- Since when its votes tie.
    add column tied_at timestamptz;
-- A suspected label is asked again once.
create unique index task_relabeled on task (item) where source = 'relabel' and state <> 'withdrawn';

-- Set aside by an operator: it stays paid and kept, and counts for nothing.
alter table label add column set_aside_at timestamptz;

alter table job drop constraint job_kind_check;
alter table job add constraint job_kind_check
    check (kind in ('import', 'pretrain', 'embed', 'pretext_loss', 'train', 'score', 'select', 'audit'));
