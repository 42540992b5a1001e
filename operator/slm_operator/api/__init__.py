"""SLMService as frozen pydantic models, and the CRD that is generated from them."""
