-- Weights of others that pretraining begins with.

-- SHA-256 of the file in hexadecimal; the file lies in the object store under it.
alter table project add column initial_weights text check (initial_weights ~ '^[0-9a-f]{64}$');
