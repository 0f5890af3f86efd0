-- :count labels on the tasks of the project `exported`, as if each had been given many times.
insert into label (id, project, task, item, round_number, class, labeler, seconds, counted)
select gen_random_uuid(), t.project, t.id, t.item, 1, 1, k.id, 1.0, true
from (select t.*, row_number() over () as place from project p join task t on t.project = p.id where p.name = 'exported') t
  join generate_series(0, :count - 1) as number on number % 10000 = t.place - 1,
  (select id from token where name = 'exported-0') k;
analyze label;
