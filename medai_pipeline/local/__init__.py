"""The stack on one machine: embedded Postgres, Orthanc, code server, daemon, web page; started, watched and stopped together."""
