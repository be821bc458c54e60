-- Who may do what in the database of registry, ledger and Iceberg catalog. Run it, as often as you
-- like, as the owner of the tables, after `scalr apply` has made them:
--
--     psql --set ON_ERROR_STOP=1 --file infra/roles.sql "host=HOST dbname=NAME user=OWNER"
--     GRANT scalr_reader TO alice;     -- pulls training sets, reads what happened; writes nothing
--     GRANT scalr_writer TO trainer;   -- runs SCALR
--
-- Only the owner makes and migrates tables: after an upgrade of SCALR, `scalr doctor` as the owner.
-- The files of the warehouse have permissions of their own, which should say the same.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'scalr_reader') THEN
        CREATE ROLE scalr_reader NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'scalr_writer') THEN
        CREATE ROLE scalr_writer NOLOGIN;
    END IF;
END
$$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO scalr_reader, scalr_writer;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO scalr_reader, scalr_writer;
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO scalr_writer;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO scalr_writer;

-- The same for tables that the owner makes later.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO scalr_reader, scalr_writer;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT INSERT, UPDATE, DELETE ON TABLES TO scalr_writer;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO scalr_writer;
