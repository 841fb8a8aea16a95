"""What makes a release: `make dist` runs it. No part of any distribution."""
