"""An app of a few lines, unaware of the gateway: who comes, and a count that its session keeps."""

import streamlit as st

count = st.session_state.setdefault("count", 0)
st.title("Behind the gate")
st.write(f"Hello, {st.context.headers.get('X-User')}")
if st.button("Count"):
    st.session_state.count = count = count + 1
st.write(f"counted {count}")
