"""DNS server for the services of the registry: A, AAAA and SRV records of one domain, without recursion."""
